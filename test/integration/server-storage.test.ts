/** Batches whose storage fails under them, and comes back: said while it lasts, nothing lost, nothing left. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import S3rver from 's3rver'
import { describe, expect, it } from 'vitest'
import { ApiKeys } from '../../server/keys/api-keys.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { type Answer, Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const COUNT = 300

function form(lines = COUNT): FormData {
  const made = new FormData()
  const line = (i: number) => JSON.stringify({ custom_id: `r${i}`, body: { query: `q ${i}`, documents: ['a', 'b'] } })
  made.append('purpose', 'batch')
  made.append('file', new Blob([Array.from({ length: lines }, (_, i) => line(i)).join('\n')]), 'in.jsonl')
  return made
}

interface Batch {
  readonly id: string
  readonly fileId: string
  readonly state: () => Promise<Answer['body']>
}

async function batchOf(api: Api, headers: Record<string, string> = {}): Promise<Batch> {
  const file = (await api.call('POST', '/v1/files', form(), headers)).body
  const request = { input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '1h' }
  const { id } = (await api.post('/v1/batches', request, headers)).body
  return { id, fileId: file.id, state: async () => (await api.get(`/v1/batches/${id}`, headers)).body }
}

function emptyFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'rankmill-storage-'))
  stage().onEnd(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A file system of so many bytes; undefined where this process may not make one. */
function smallDisk(bytes: number): string | undefined {
  const folder = emptyFolder()
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', folder], { stdio: 'ignore' })
  } catch {
    return undefined
  }
  stage().onEnd(() => execFileSync('umount', ['--lazy', folder]))
  return folder
}

async function completed({ state }: Batch): Promise<void> {
  await until('the batch is done', async () => (await state()).status === 'completed', 60_000)
  expect((await state()).request_counts).toEqual({ total: COUNT, completed: COUNT, failed: 0 })
}

describe('a batch', () => {
  it('goes on where the disk was full, and is complete', async () => {
    const dataDir = smallDisk(1 << 20)
    if (!dataDir) return
    const api = await Api.start(stage(), { dataDir, checkpointMs: 50 })
    const batch = await batchOf(api)
    const ballast = join(dataDir, 'ballast')
    writeFileSync(ballast, '')
    // Whatever there is left.
    expect(() => writeFileSync(ballast, Buffer.alloc(2 << 20))).toThrow('ENOSPC')
    const refused = await api.call('POST', '/v1/files', form())
    expect([refused.status, refused.body.error.code]).toEqual([503, 'storage_failed'])
    expect(refused.body.error.message).toContain('no space is left')
    expect(readdirSync(join(dataDir, 'files')).filter((name) => name.endsWith('.partial'))).toEqual([])
    await stage().worker()
    await until('it runs', async () => (await batch.state()).status === 'in_progress')
    rmSync(ballast)
    await completed(batch)
  }, 120_000)

  it('ends as failed, and says why, where its input is deleted before it runs', async () => {
    const dataDir = emptyFolder()
    const idle = await Api.start(stage(), { dataDir, maxRunningBatches: 0 })
    const batch = await batchOf(idle)
    rmSync(join(dataDir, 'files', batch.fileId))
    await Api.start(stage(), { dataDir })
    await until('it has ended', async () => (await batch.state()).status === 'failed')
    expect((await batch.state()).errors.data).toEqual([expect.objectContaining({ code: 'not_found' })])
    expect((await idle.get(`/v1/files/${batch.fileId}/content`)).body.error.code).toBe('not_found')
  })

  it('waits for a store that is away, and is complete when it is back', async () => {
    const directory = emptyFolder()
    const configureBuckets = [{ name: 'bucket', configs: [] }]
    let store = new S3rver({ port: 0, silent: true, directory, configureBuckets })
    const { port } = (await store.run()) as AddressInfo
    stage().onEnd(() => store.close().catch(() => undefined))
    Object.assign(process.env, { AWS_ACCESS_KEY_ID: 'S3RVER', AWS_SECRET_ACCESS_KEY: 'S3RVER' })
    const files = { files: 's3://bucket/x', filesEndpoint: `http://127.0.0.1:${port}`, dataDir: emptyFolder() }
    const api = await Api.start(stage(), files)
    const batch = await batchOf(api)
    await until('it runs', async () => (await batch.state()).status === 'in_progress')
    await store.close()
    const refused = await api.call('POST', '/v1/files', form())
    expect([refused.status, refused.body.error.code]).toEqual([503, 'storage_failed'])
    await stage().worker()
    await until('its output has nowhere to go', async () => (await batch.state()).status === 'finalizing', 30_000)
    store = new S3rver({ port, silent: true, directory, configureBuckets })
    await store.run()
    await completed(batch)
  }, 120_000)

  it('of a key that is revoked runs to its end: what was paid for is done, and shown to nobody', async () => {
    const keys = new ApiKeys(stage().redis, serverKeysOf(stage().prefix, 'rerank'))
    const limits = { expiresAt: null, requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }
    const { key, record } = await keys.create({ name: '', scopes: ['submit', 'read'], ...limits })
    const headers = { authorization: `Bearer ${key}` }
    const dataDir = emptyFolder()
    mkdirSync(join(dataDir, 'files'))
    const api = await Api.start(stage(), { dataDir, auth: 'required' })
    const { id } = await batchOf(api, headers)
    await keys.revoke(record.id)
    expect((await api.get(`/v1/batches/${id}`, headers)).status).toBe(401)
    await stage().worker()
    const stored = async () =>
      JSON.parse((await stage().redis.hget(`${stage().prefix}:batch:rerank:${id}`, 'record')) ?? '{}')
    await until('it is done', async () => (await stored()).status === 'completed', 60_000)
    expect((await stored()).completed).toBe(COUNT)
  })
})
