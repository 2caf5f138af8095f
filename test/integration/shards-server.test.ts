/** The API server on a fleet of several shards: its callers see no difference. */
import { expect, it } from 'vitest'
import { shardOf } from '../../shared/protocol/shards.js'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const three = { shards: 3 }
const DOCUMENTS = ['cats purr', 'dogs bark', 'rivers flow to the sea']

it('answers, keeps jobs, corpora and batches, and shows the queues of all shards', async () => {
  await stage().worker(three)
  const api = await Api.start(stage(), three)
  const single = await api.post('/v2/rerank', { query: 'cats', documents: DOCUMENTS })
  expect([single.status, single.body.results.length]).toEqual([200, 3])

  const jobs = Array.from({ length: 12 }, (_, i) => `r-${i}`)
  expect(new Set(jobs.map((id) => shardOf(id, 3))).size).toBe(3)
  for (const id of jobs) {
    const headers = { 'idempotency-key': id }
    const taken = await api.post('/v1/rerank/jobs', { query: `cats ${id}`, documents: DOCUMENTS }, headers)
    expect(taken.status).toBe(202)
    const again = await api.post('/v1/rerank/jobs', { query: `cats ${id}`, documents: DOCUMENTS }, headers)
    expect(again.body.id).toBe(taken.body.id)
    await until('it is done', async () => {
      return (await api.get(`/v1/rerank/jobs/${taken.body.id}`)).body.status === 'completed'
    })
  }

  const lines = DOCUMENTS.map((text, i) => JSON.stringify({ id: `d${i}`, text })).join('\n')
  const type = { 'content-type': 'application/x-ndjson' }
  for (const name of ['a', 'b', 'c', 'd']) {
    expect((await api.call('PUT', `/v1/corpora/${name}`, lines, type)).body).toMatchObject({ name, passages: 3 })
  }
  const listed = (await api.get('/v1/corpora')).body.data
  expect(listed.map(({ name }: { name: string }) => name)).toEqual(['a', 'b', 'c', 'd'])
  expect((await api.get('/v1/corpora/c')).body).toMatchObject({ name: 'c', version: '1' })
  expect((await api.call('DELETE', '/v1/corpora/c')).body).toMatchObject({ deleted: true })
  expect((await api.get('/v1/corpora/c')).status).toBe(404)

  const status = (await api.get('/v1/status')).body
  expect(status.workers).toHaveLength(1)
  expect(status.queues.filter(({ lane }: { lane: string }) => lane === 'interactive')).toHaveLength(1)
  const board = (await api.get('/queues/api/queues')).body
  const names = board.queues.map(({ name }: { name: string }) => name)
  expect(new Set(names).size).toBe(names.length)
  expect(names.filter((name: string) => name.startsWith('shard-'))).toHaveLength(4)

  const body = (i: number) => ({ query: `query ${i}`, documents: DOCUMENTS, model: null })
  const line = (i: number) => JSON.stringify({ custom_id: `r-${i}`, method: 'POST', url: '/v1/rerank', body: body(i) })
  const form = new FormData()
  form.append('purpose', 'batch')
  form.append('file', new Blob([Array.from({ length: 40 }, (_, i) => line(i)).join('\n')]), 'in.jsonl')
  const file = (await api.call('POST', '/v1/files', form)).body
  const asked = { input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '24h' }
  const { id } = (await api.post('/v1/batches', asked)).body
  await until('the batch is done', async () => (await api.get(`/v1/batches/${id}`)).body.status === 'completed', 60_000)
  expect((await api.get(`/v1/batches/${id}`)).body.request_counts).toMatchObject({ total: 40, completed: 40 })
})
