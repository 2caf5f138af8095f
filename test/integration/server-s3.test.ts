/** Files in a real S3-compatible store: as in a folder, and a batch that another server ends. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { S3Storage } from '../../server/files/s3-storage.js'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const endpoint = process.env['RANKMILL_TEST_S3_ENDPOINT'] ?? ''
const BUCKET = 's3://rankmill-test'

async function* pieces(count: number, bytes: number) {
  for (let i = 0; i < count; i++) yield Buffer.alloc(bytes, i)
}

async function allOf(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of content) chunks.push(chunk)
  return Buffer.concat(chunks)
}

describe.skipIf(endpoint === '')('S3 (RANKMILL_TEST_S3_ENDPOINT)', () => {
  it('keeps contents whole, of one part and of many', async () => {
    const storage = await S3Storage.open(`${BUCKET}/${randomBytes(4).toString('hex')}`, endpoint)
    stage().onEnd(() => storage.close())
    for (const [count, bytes] of [
      [0, 0],
      [3, 1000],
      [20, 1_000_000],
    ] as const) {
      expect(await storage.put('file-a', pieces(count, bytes))).toBe(count * bytes)
      expect((await allOf(await storage.get('file-a'))).equals(await allOf(pieces(count, bytes)))).toBe(true)
    }
    await storage.remove('file-a')
    await storage.remove('file-a')
    await expect(storage.get('file-a')).rejects.toMatchObject({ code: 'not_found' })
  })

  it('stores nothing of a content that broke off, and says why', async () => {
    const storage = await S3Storage.open(BUCKET, endpoint)
    stage().onEnd(() => storage.close())
    async function* broken() {
      yield* pieces(12, 1_000_000)
      throw new Error('the line went dead')
    }
    await expect(storage.put('file-b', broken())).rejects.toMatchObject({
      code: 'storage_failed',
      message: expect.stringContaining('the line went dead'),
    })
    await expect(storage.get('file-b')).rejects.toMatchObject({ code: 'not_found' })
  })

  it('says at start that the bucket is not there', async () => {
    await expect(Api.start(stage(), { files: 's3://rankmill-none', filesEndpoint: endpoint })).rejects.toMatchObject({
      code: expect.stringMatching(/storage_failed|not_found/),
    })
    await expect(Api.start(stage(), { files: 'nonsense' })).rejects.toMatchObject({ code: 'invalid_configuration' })
  })

  it('lets a server on another machine end a batch', async () => {
    const s3 = { files: `${BUCKET}/${randomBytes(4).toString('hex')}`, filesEndpoint: endpoint, leaseMs: 1000 }
    const folder = `.cache/test-server/${stage().prefix.replace(/\W/g, '')}`
    const first = await Api.start(stage(), { ...s3, dataDir: `${folder}-1` })
    const form = new FormData()
    const lines = Array.from({ length: 200 }, (_, i) =>
      JSON.stringify({ id: `r${i}`, query: `q ${i}`, documents: ['a', 'b'] }),
    )
    form.append('purpose', 'batch')
    form.append('file', new Blob([lines.join('\n')]), 'in.jsonl')
    const file = await first.call('POST', '/v1/files', form)
    const request = { input_file_id: file.body.id, endpoint: '/v1/rerank', completion_window: '1h' }
    const batch = (await first.post('/v1/batches', request)).body
    await until('it runs', async () => (await first.get(`/v1/batches/${batch.id}`)).body.status === 'in_progress')
    await first.server.close()
    await stage().worker()
    const second = await Api.start(stage(), { ...s3, dataDir: `${folder}-2` })
    const state = async () => (await second.get(`/v1/batches/${batch.id}`)).body
    await until('it is done', async () => (await state()).status === 'completed', 60_000)
    const { output_file_id: output, request_counts: counts } = await state()
    expect(counts).toEqual({ total: 200, completed: 200, failed: 0 })
    expect((await second.get(`/v1/files/${output}/content`)).body.trim().split('\n')).toHaveLength(200)
  })
})
