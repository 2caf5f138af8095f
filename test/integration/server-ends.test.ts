/** What outlives a server, a key or a Redis: each end is told once and truly, whoever tells it, and leaves nothing behind. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, it } from 'vitest'
import { type BatchRecord, BatchRecords } from '../../server/batches/batch-records.js'
import { BatchRunner } from '../../server/batches/batch-runner.js'
import { Files } from '../../server/files/files.js'
import { FolderStorage } from '../../server/files/folder-storage.js'
import { HttpMetrics } from '../../server/http-metrics.js'
import { ApiKeys } from '../../server/keys/api-keys.js'
import { CallerLimits } from '../../server/keys/limits.js'
import { ModelNames } from '../../server/model-names.js'
import { RerankCalls } from '../../server/rerank-calls.js'
import type { WebhookEvent, Webhooks } from '../../server/webhooks/webhooks.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { ServerScripts } from '../../shared/redis/server-scripts.js'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const REQUEST = { query: 'q', documents: ['a', 'b'] }
const lines = (count: number) =>
  Array.from({ length: count }, (_, i) => JSON.stringify({ custom_id: `r-${i}`, body: REQUEST })).join('\n')
const dataDirOf = () => `.cache/test-server/${stage().prefix.replace(/\W/g, '')}`

async function upload(api: Api, content: string, headers = {}) {
  const form = new FormData()
  form.append('purpose', 'batch')
  form.append('file', new Blob([content]), 'in.jsonl')
  return (await api.call('POST', '/v1/files', form, headers)).body.id
}

/** The runner of a server, whose webhooks are given to `send`. */
async function runner(send: (event: WebhookEvent) => Promise<void>) {
  const { redis, prefix } = stage()
  const keys = serverKeysOf(prefix, 'rerank')
  const options = stage().options({ dataDir: dataDirOf(), leaseMs: 1000 })
  const [scripts, apiKeys, metrics] = [new ServerScripts(redis, keys), new ApiKeys(redis, keys), new HttpMetrics(false)]
  const common = { client: stage().client(), options, now: Date.now }
  const log = pino({ level: 'silent' })
  const storage = await FolderStorage.open(join(options.dataDir, 'files'))
  const files = new Files(redis, keys, storage, options, log, Date.now)
  const records = new BatchRecords(redis, keys, options.fileTtlMs)
  const calls = new RerankCalls({ ...common, limits: new CallerLimits(scripts), models: new ModelNames(''), metrics })
  const webhooks = { send } as Webhooks
  const made = new BatchRunner({ ...common, calls, records, files, scripts, apiKeys, webhooks, log })
  stage().onEnd(async () => {
    await made.close()
    files.close()
  })
  return { made, records, files }
}

it('a batch whose server was killed after it had told of its end is told of as it ended, and keeps no more files', async () => {
  await stage().worker()
  const told: WebhookEvent[] = []
  const first = await runner(async (event) => {
    told.push(event)
    throw new Error('killed')
  })
  const { files, records } = first
  const owner = 'open'
  const file = { id: Files.newId(), owner }
  const content = Buffer.from(lines(20))
  const bytes = await files.storage.put(
    file.id,
    (async function* () {
      yield content
    })(),
  )
  await files.add({ ...file, bytes, filename: 'in.jsonl', purpose: 'batch' })
  const nothing = { inProgressAt: null, finalizingAt: null, endedAt: null, outputFileId: null, errorFileId: null }
  const record: BatchRecord = {
    ...{ id: BatchRecords.newId(), owner, endpoint: '/v1/rerank', inputFileId: file.id, completionWindow: '1h' },
    ...{ metadata: null, defaults: {}, webhook: 'https://example.org/', status: 'validating', errors: [] },
    ...{ createdAt: Date.now(), expiresAt: Date.now() + 3_600_000, total: 0, completed: 0, failed: 0, ...nothing },
  }
  await records.add(record)
  first.made.wake()
  await until('it was told', () => told.length === 1)
  await first.made.close()
  await runner(async (event) => void told.push(event))
  await until('the next one told it', () => told.length > 1)
  await until('it is closed', async () => (await records.open(10)).length === 0)
  const ended = (await records.read(record.id))?.record
  expect(ended).toMatchObject({ status: 'completed', completed: 20 })
  for (const { type, subject, data } of told) {
    expect([type, subject]).toEqual(['batch.completed', record.id])
    expect(data).toMatchObject({ status: 'completed', output_file_id: ended?.outputFileId })
  }
  const kept = (await files.list(owner, 10, 'asc')).files.filter(({ purpose }) => purpose === 'batch_output')
  expect(kept.map(({ id }) => id)).toEqual([ended?.outputFileId])
  await until('its folder is gone', () => !existsSync(join(dataDirOf(), 'batches', record.id)))
})

it('events end with the key that asked for them', async () => {
  const keys = new ApiKeys(stage().redis, serverKeysOf(stage().prefix, 'rerank'))
  const limits = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }
  const made = await keys.create({ name: '', scopes: ['submit', 'read'], expiresAt: null, ...limits })
  const headers = { authorization: `Bearer ${made.key}` }
  const api = await Api.start(stage(), { auth: 'required' })
  const { id } = (await api.post('/v1/rerank/jobs', REQUEST, headers)).body
  const stream = await fetch(`${api.url}/v1/rerank/jobs/${id}/events`, { headers })
  const reader = stream.body!.getReader()
  expect(new TextDecoder().decode((await reader.read()).value)).toContain('event: status')
  await keys.revoke(made.record.id)
  expect((await reader.read()).done).toBe(true)
})

it('a dead letter that two send again at once is sent again once', async () => {
  await stage().worker()
  const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`
  const options = { webhookSecret: secret, webhookAllow: '127.0.0.1', webhookAttempts: 1 }
  const api = await Api.start(stage(), options)
  await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: 'http://127.0.0.1:1/' })
  const dead = async () => (await api.get('/v1/webhooks/failed')).body.data
  await until('it is dead', async () => (await dead()).length === 1)
  const [letter] = await dead()
  const tries = Array.from({ length: 8 }, () => api.post(`/v1/webhooks/failed/${letter.id}/retry`))
  const statuses = (await Promise.all(tries)).map(({ status }) => status)
  expect(statuses.filter((status) => status === 202).length).toBeGreaterThan(0)
  expect(statuses.filter((status) => status !== 202 && status !== 404)).toEqual([])
})

it('nothing stays of a batch that Redis has forgotten in the middle of it', async () => {
  const api = await Api.start(stage(), { leaseMs: 1000, auth: 'open' })
  const input_file_id = await upload(api, lines(50))
  const asked = { input_file_id, endpoint: '/v1/rerank', completion_window: '1h' }
  const { id } = (await api.post('/v1/batches', asked)).body
  const folder = join(dataDirOf(), 'batches', id)
  await until('it runs', async () => (await api.get(`/v1/batches/${id}`)).body.status === 'in_progress')
  expect(existsSync(folder)).toBe(true)
  const events = await fetch(`${api.url}/v1/batches/${id}/events`)
  await stage().redis.unlink(await stage().keys())
  await until('its folder is gone', () => !existsSync(folder))
  expect(await events.text()).toContain('event: progress')
  expect((await api.get(`/v1/batches/${id}`)).status).toBe(404)
  expect((await api.get(`/v1/batches/${id}/events`)).status).toBe(404)
})
