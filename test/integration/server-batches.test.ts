/** Files and batches: OpenAI's contract, whatever happens to the servers and workers meanwhile. */
import { readdir } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()

function lines(count: number, body: object = {}): string {
  const line = (i: number) => ({
    custom_id: `r-${i}`,
    method: 'POST',
    url: '/v1/rerank',
    body: { query: `query ${i}`, documents: [`a ${i}`, `b ${i}`, `c ${i}`], top_n: 2, model: null, ...body },
  })
  return `${Array.from({ length: count }, (_, i) => JSON.stringify(line(i))).join('\n')}\n`
}

async function upload(api: Api, content: string, fields: Record<string, string> = { purpose: 'batch' }, headers = {}) {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  form.append('file', new Blob([content]), 'in.jsonl')
  return api.call('POST', '/v1/files', form, headers)
}

async function begin(api: Api, content: string, more: object = {}) {
  const file = await upload(api, content)
  const batch = { input_file_id: file.body.id, endpoint: '/v1/rerank', completion_window: '24h', ...more }
  return (await api.post('/v1/batches', batch)).body
}

async function ended(api: Api, id: string, ms = 60_000) {
  let body: Api extends never ? never : Awaited<ReturnType<Api['get']>>['body']
  await until(
    'the batch has ended',
    async () => {
      body = (await api.get(`/v1/batches/${id}`)).body
      return ['completed', 'failed', 'expired', 'cancelled'].includes(body.status)
    },
    ms,
  )
  return body
}

async function content(api: Api, id: string) {
  const { body } = await api.get(`/v1/files/${id}/content`)
  return body
    .trim()
    .split('\n')
    .map((line: string) => JSON.parse(line))
}

describe('files', () => {
  it('come back as they were sent, until they are deleted', async () => {
    const api = await Api.start(stage())
    const text = lines(2000)
    const { status, body } = await upload(api, text)
    expect(status).toBe(200)
    expect(body).toMatchObject({
      object: 'file',
      bytes: Buffer.byteLength(text),
      filename: 'in.jsonl',
      purpose: 'batch',
    })
    expect((await api.get(`/v1/files/${body.id}/content`)).body).toBe(text)
    expect((await api.get('/v1/files')).body.data).toEqual([body])
    expect((await api.call('DELETE', `/v1/files/${body.id}`)).body).toMatchObject({ deleted: true })
    expect((await api.get(`/v1/files/${body.id}`)).status).toBe(404)
  })

  it.each(['..%2F..%2Fpackage.json', 'file-none', `file-${'0'.repeat(32)}`, '%2e%2e', 'file-%00'])(
    'has no file %s',
    async (id) => {
      const api = await Api.start(stage())
      for (const path of [`/v1/files/${id}`, `/v1/files/${id}/content`]) expect((await api.get(path)).status).toBe(404)
    },
  )

  it('have limits of size and number, and a purpose; nothing is left of what was refused', async () => {
    const api = await Api.start(stage(), { maxFileBytes: 1024, maxFiles: 1 })
    const big = await upload(api, 'x'.repeat(2000))
    expect([big.status, big.body.error.code]).toEqual([413, 'body_too_large'])
    expect((await upload(api, 'x', { purpose: 'fine-tune' })).body.error.param).toBe('purpose')
    expect((await upload(api, 'x', {})).body.error.param).toBe('purpose')
    expect((await api.post('/v1/files', { a: 1 })).status).toBe(415)
    expect(await readdir(`.cache/test-server/${stage().prefix.replace(/\W/g, '')}/files`)).toEqual([])
    expect((await upload(api, 'x')).status).toBe(200)
    expect((await upload(api, 'x')).body.error.code).toBe('too_many_files')
  })
})

describe('batches', () => {
  it('run a file of requests, answers and errors in files of their own', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    const text = `${lines(50)}not json\n${JSON.stringify({ custom_id: 'bad', body: { query: 'q', documents: [], topk: 1 } })}\n`
    const batch = await begin(api, text, { metadata: { of: 'test' } })
    expect(batch).toMatchObject({ object: 'batch', status: 'validating', metadata: { of: 'test' } })
    const done = await ended(api, batch.id)
    expect(done).toMatchObject({
      status: 'completed',
      request_counts: { total: 52, completed: 50, failed: 2 },
      errors: null,
    })
    const answers = await content(api, done.output_file_id)
    expect(answers.map((row: { custom_id: string }) => row.custom_id)).toEqual(
      Array.from({ length: 50 }, (_, i) => `r-${i}`),
    )
    expect(answers[7].response.body.results).toHaveLength(2)
    const one = await api.post('/v1/rerank', { query: 'query 7', documents: ['a 7', 'b 7', 'c 7'], top_n: 2 })
    expect(answers[7].response.body.results).toEqual(one.body.results)
    const errors = await content(api, done.error_file_id)
    expect(errors[0]).toMatchObject({ custom_id: null, response: null, error: { code: 'invalid_line', line: 51 } })
    expect(errors[1]).toMatchObject({ custom_id: 'bad', error: { code: 'invalid_request' } })
    expect((await api.get('/v1/batches?limit=1')).body.data).toEqual([done])
    const events = await api.get(`/v1/batches/${batch.id}/events`)
    expect(events.body).toContain(`id: completed-50-2-52\nevent: end`)
  })

  it('take Voyage’s request_params, and answer in its words where they are used', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    const text = JSON.stringify({ custom_id: 'v', body: { query: 'q', documents: ['a', 'b'] } })
    const done = await ended(
      api,
      (await begin(api, text, { completion_window: '12h', request_params: { top_k: 1 } })).id,
    )
    const [row] = await content(api, done.output_file_id)
    expect(row.response.body.data).toHaveLength(1)
  })

  it.each([
    [{ endpoint: '/v1/chat/completions' }, 400, 'endpoint'],
    [{ completion_window: 'soon' }, 400, 'completion_window'],
    [{ input_file_id: 'file-none' }, 404, 'input_file_id'],
    [{ metadata: { a: 1 } }, 400, 'metadata.a'],
    [{ request_params: { topn: 1 } }, 400, 'request_params.topn'],
  ])('refuse %j', async (more, status, param) => {
    const api = await Api.start(stage())
    const file = await upload(api, lines(1))
    const body = { input_file_id: file.body.id, endpoint: '/v1/rerank', completion_window: '24h', ...more }
    const answer = await api.post('/v1/batches', body)
    expect([answer.status, answer.body.error.param]).toEqual([status, param])
  })

  it('fail where there is nothing to do, and where there is too much', async () => {
    const api = await Api.start(stage(), { maxBatchRequests: 5 })
    for (const [text, code] of [
      ['\n', 'empty_file'],
      [lines(6), 'too_many_requests'],
      ['custom_id,query,documents\na,b,"[""c""]"\n', 'invalid_file'],
    ] as const) {
      const done = await ended(api, (await begin(api, text)).id)
      expect(done).toMatchObject({ status: 'failed', errors: { data: [{ code }] } })
    }
  })

  it('stop when they are cancelled, and keep what was done', async () => {
    const api = await Api.start(stage())
    const batch = await begin(api, lines(500))
    await until('it runs', async () => (await api.get(`/v1/batches/${batch.id}`)).body.status === 'in_progress')
    const using = await api.call('DELETE', `/v1/files/${batch.input_file_id}`)
    expect([using.status, using.body.error.code]).toEqual([409, 'conflict'])
    expect((await api.post(`/v1/batches/${batch.id}/cancel`)).body.status).toBe('cancelling')
    await stage().worker()
    const done = await ended(api, batch.id)
    expect(done.status).toBe('cancelled')
    const { completed, total } = done.request_counts
    expect(completed).toBeLessThan(total)
    if (completed > 0) expect(await content(api, done.output_file_id)).toHaveLength(completed)
    expect((await api.post(`/v1/batches/${batch.id}/cancel`)).body.status).toBe('cancelled')
  })

  it('go on at another server when theirs closes, and no request is answered twice or not at all', async () => {
    const quick = { leaseMs: 1000, checkpointMs: 50 }
    const first = await Api.start(stage(), { ...quick, maxWindowRequests: 32 })
    const batch = await begin(first, lines(400))
    const worker = await stage().worker()
    const state = (api: Api) => api.get(`/v1/batches/${batch.id}`).then(({ body }) => body)
    await until('a part is done', async () => (await state(first)).request_counts.completed > 20)
    await first.server.close()
    await worker.close(true)
    await stage().worker()
    const second = await Api.start(stage(), quick)
    const { request_counts: counts } = await state(second)
    expect(counts.total).toBe(400)
    const done = await ended(second, batch.id)
    expect(done.request_counts).toEqual({ total: 400, completed: 400, failed: 0 })
    const ids = (await content(second, done.output_file_id)).map((row: { custom_id: string }) => row.custom_id)
    expect(ids).toEqual(Array.from({ length: 400 }, (_, i) => `r-${i}`))
  })
})

describe('corpora', () => {
  it('are stored as a stream, named in requests, and removed', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    const passages = Array.from({ length: 100 }, (_, i) => JSON.stringify({ id: `p${i}`, text: `passage ${i}` })).join(
      '\n',
    )
    const put = await api.call('PUT', '/v1/corpora/books', passages, { 'content-type': 'application/x-ndjson' })
    expect(put.body).toMatchObject({ object: 'corpus', name: 'books', passages: 100 })
    const ranked = await api.post('/v1/rerank', {
      query: 'passage',
      documents: { corpus: 'books', ids: ['p1', 'p7'] },
      return_documents: true,
    })
    expect(ranked.body.results.map((row: { document: object }) => row.document)).toContainEqual({ text: 'passage 7' })
    expect((await api.get('/v1/corpora')).body.data).toHaveLength(1)
    const bad = await api.call('PUT', '/v1/corpora/books', '{"id":"a"}', { 'content-type': 'application/x-ndjson' })
    expect([bad.status, bad.body.error.param]).toEqual([400, 'line 1.text'])
    expect((await api.call('DELETE', '/v1/corpora/books')).status).toBe(200)
    expect((await api.get('/v1/corpora/books')).status).toBe(404)
  })
})
