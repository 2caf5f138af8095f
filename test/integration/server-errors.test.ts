/** Every error that HTTP can answer, in the words of each dialect: bodies are read as that dialect's clients read them. */
import { describe, expect, it } from 'vitest'
import { ApiKeys, type NewApiKey } from '../../server/keys/api-keys.js'
import { ERRORS, type ErrorCode } from '../../shared/errors.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { type Answer, Api } from './api.js'
import { useStage } from './stage.js'

const stage = useStage()

interface Read {
  /** Ours, where the dialect has a place for it. */
  readonly code: string
  readonly message: string
  readonly requestId: string
}
type Body = Answer['body']
interface Tongue {
  readonly path: string
  /** A request in this dialect. */
  readonly request: (more?: object) => Record<string, unknown>
  /** Reads an error, strictly. */
  readonly read: (body: Body, status: number) => Read
}

const documented = (more: object = {}) => ({ query: 'q', documents: ['a', 'b'], ...more })
const texts = ({ documents, ...more }: { documents?: unknown } = {}) => ({
  query: 'q',
  texts: documents ?? ['a', 'b'],
  ...more,
})
const openAi = (body: Body): Read => {
  expect(body.error.type).toBe(
    (ERRORS[body.error.code as ErrorCode]?.status ?? 0) < 500 ? 'invalid_request_error' : 'server_error',
  )
  return { code: body.error.code, message: body.error.message, requestId: body.error.request_id }
}
const detailed = (body: Body): Read => {
  expect(body.detail).toBe(body.error.message)
  return openAi(body)
}
const numbered = (body: Body, status: number): Read => {
  expect(body.error).toMatchObject({ code: status, type: status < 500 ? 'BadRequestError' : 'InternalServerError' })
  return { code: body.error.reason, message: body.error.message, requestId: body.error.request_id }
}
const tei = (body: Body, status: number): Read => {
  expect(
    Object.keys(body)
      .filter((key) => key !== 'param')
      .sort(),
  ).toEqual(['code', 'error', 'error_type', 'request_id'])
  const kinds = status === 429 ? ['overloaded'] : status < 500 ? ['validation'] : ['unhealthy', 'backend']
  expect(kinds).toContain(body.error_type)
  return { code: body.code, message: body.error, requestId: body.request_id }
}
const coheres = (body: Body): Read => {
  expect(body).toMatchObject({ id: body.error.request_id, message: body.error.message })
  return openAi(body)
}

const TONGUES: Record<string, Tongue> = {
  rankmill: { path: '/v1/rerank', request: documented, read: openAi },
  'rankmill or tei': { path: '/rerank', request: documented, read: openAi },
  cohere: { path: '/v2/rerank', request: documented, read: coheres },
  jina: { path: '/jina/v1/rerank', request: documented, read: detailed },
  voyage: { path: '/voyage/v1/rerank', request: documented, read: detailed },
  vllm: { path: '/vllm/v1/rerank', request: documented, read: numbered },
  infinity: { path: '/infinity/rerank', request: documented, read: numbered },
  tei: { path: '/tei/rerank', request: texts, read: tei },
}

const UNLIMITED = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }
async function bearer(wanted: Partial<NewApiKey> = {}): Promise<Record<string, string>> {
  const keys = new ApiKeys(stage().redis, serverKeysOf(stage().prefix, 'rerank'))
  const made = { name: '', scopes: ['submit', 'read'] as const, expiresAt: null, ...UNLIMITED }
  const { key } = await keys.create({ ...made, scopes: [...made.scopes], ...wanted })
  return { authorization: `Bearer ${key}` }
}

/** What an answer says, read in its dialect: its status is the code's, and its id that of its header. */
function read({ path, read }: Tongue, { status, body, headers }: Answer): string {
  const { code, message, requestId } = read(body, status)
  expect([path, code, status]).toEqual([path, code, ERRORS[code as ErrorCode]?.status])
  expect(message.length).toBeGreaterThan(5)
  expect(requestId).toBe(headers.get('x-request-id'))
  expect(headers.get('content-type')).toMatch(/^application\/json/)
  if (status === 429) expect(headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
  return code
}

describe.each(Object.entries(TONGUES))('%s', (_name, tongue) => {
  const { path, request } = tongue

  it('says what is wrong with a request', async () => {
    await stage().worker()
    const api = await Api.start(stage(), { maxBodyBytes: 4096, maxDocuments: 20, maxDocumentBytes: 500 })
    const asks = async (body: unknown, headers?: Record<string, string>) =>
      read(tongue, await api.post(path, body, headers))
    const said = {
      query: await asks({ ...request(), query: '' }),
      empty: await asks(request({ documents: [] })),
      unknown: await asks(request({ nonsense: 1 })),
      many: await asks(request({ documents: Array.from({ length: 21 }, () => 'a') })),
      long: await asks(request({ documents: ['a'.repeat(501)] })),
      model: await asks(request({ model: 'none' })),
    }
    expect(said).toEqual({
      query: 'invalid_request',
      empty: 'invalid_request',
      unknown: 'invalid_request',
      many: 'too_many_documents',
      long: 'document_too_long',
      model: 'unknown_model',
    })
    // The body was not read: on a route of two dialects the plainer one speaks.
    expect(await asks('{"query":')).toBe('invalid_request')
    expect(await asks(request({ documents: ['a'.repeat(5000)] }))).toBe('body_too_large')
    expect(await asks('q', { 'content-type': 'text/plain' })).toBe('unsupported_media_type')
    expect(await asks('{}', { 'content-encoding': 'br' })).toBe('unsupported_media_type')
    expect(read(tongue, await api.get(path))).toBe('method_not_allowed')
    const named = { 'idempotency-key': 'same' }
    expect((await api.post(path, request(), named)).status).toBe(200)
    expect(await asks(request({ query: 'another' }), named)).toBe('conflict')
    expect(await asks(request(), { 'idempotency-key': 'x'.repeat(300) })).toBe('invalid_request')
  })

  it('says who may not, and who asks for too much', async () => {
    await stage().worker()
    const api = await Api.start(stage(), { auth: 'required', maxWaitingRequests: 1 })
    const asks = async (headers: Record<string, string>) => read(tongue, await api.post(path, request(), headers))
    expect(await asks({})).toBe('unauthorized')
    expect(await asks({ authorization: 'Bearer rk_0' })).toBe('unauthorized')
    expect(await asks(await bearer({ scopes: ['read'] }))).toBe('forbidden')
    const slow = await bearer({ requestsPerMinute: 1 })
    expect((await api.post(path, request(), slow)).status).toBe(200)
    expect(await asks(slow)).toBe('rate_limited')
  })

  it('says what did not come in time, and where too many wait', async () => {
    const api = await Api.start(stage(), { maxQueuedJobs: 1, waitTimeoutMs: 300 })
    const asks = async (more: object) => read(tongue, await api.post(path, request(more)))
    // Nobody works: the first waits for its time, the next finds the queue full.
    expect(await asks({})).toBe('timeout')
    await stage()
      .client()
      .submit({ query: 'fills the queue', documents: ['a'] })
    expect(await asks({ query: 'another' })).toBe('overloaded')
  })
})

describe('what only some can ask for', () => {
  it('corpora', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    await api.call('PUT', '/v1/corpora/c', '{"id":"a","text":"x"}', { 'content-type': 'application/x-ndjson' })
    for (const name of ['rankmill', 'cohere', 'jina', 'vllm', 'infinity']) {
      const tongue = TONGUES[name]!
      const asks = async (documents: object) => read(tongue, await api.post(tongue.path, tongue.request({ documents })))
      expect(await asks({ corpus: 'none', ids: ['a'] })).toBe('unknown_corpus')
      expect(await asks({ corpus: 'c', ids: ['b'] })).toBe('missing_documents')
      expect(await asks({ corpus: 'c', version: 'old', ids: ['a'] })).toBe('corpus_changed')
    }
    const lines = async (body: string, headers = {}) =>
      openAi(
        (await api.call('PUT', '/v1/corpora/d', body, { 'content-type': 'application/x-ndjson', ...headers })).body,
      )
    expect((await lines('{"id":')).code).toMatch(/invalid_(line|request)/)
    expect((await lines('{"id":7,"text":"x"}')).message).toContain('line 1')
    expect((await lines('x', { 'content-type': 'text/plain' })).code).toBe('unsupported_media_type')
  })

  it('deadlines', async () => {
    const api = await Api.start(stage())
    const { path, read: reads } = TONGUES['rankmill']!
    const { body, status } = await api.post(path, documented({ deadline_ms: 200 }))
    expect([reads(body, status).code, status]).toEqual(['deadline_exceeded', 504])
  })

  it('jobs', async () => {
    const api = await Api.start(stage())
    const asks = async (method: string, path: string, body?: unknown) =>
      openAi((await api.call(method, path, body)).body).code
    expect(await asks('POST', '/v1/rerank/jobs', { documents: ['a'] })).toBe('invalid_request')
    expect(await asks('POST', '/v1/rerank/jobs', documented({ webhook: 'http://127.0.0.1/' }))).toBe('invalid_request')
    expect(await asks('GET', '/v1/rerank/jobs/none')).toBe('not_found')
    expect(await asks('GET', '/v1/rerank/jobs/none/events')).toBe('not_found')
    expect(await asks('POST', '/v1/rerank/jobs/none/cancel')).toBe('not_found')
    expect(await asks('DELETE', '/v1/rerank/jobs/none')).toBe('not_found')
    expect(await asks('GET', '/v1/rerank/jobs?after=none')).toBe('not_found')
    expect(await asks('GET', '/v1/rerank/jobs?limit=0')).toBe('invalid_request')
    expect(await asks('GET', '/v1/rerank/jobs?limit=1&limit=2')).toBe('invalid_request')
    expect(await asks('GET', '/v1/rerank/jobs/none?wait=1e9')).toBe('invalid_request')
    expect(await asks('PUT', '/v1/rerank/jobs/none')).toBe('method_not_allowed')
    await api.post('/v1/rerank/jobs', documented({ id: 'mine' }))
    expect(await asks('POST', '/v1/rerank/jobs', documented({ id: 'mine', query: 'other' }))).toBe('conflict')
    await api.post('/v1/rerank/jobs/mine/cancel')
    const cancelled = (await api.get('/v1/rerank/jobs/mine?wait=5s')).body
    expect([cancelled.status, cancelled.error.code]).toEqual(['cancelled', 'cancelled'])
    expect(await asks('POST', '/v1/webhooks/failed/none/retry')).toBe('not_found')
  })

  it('files and batches', async () => {
    const api = await Api.start(stage(), { maxFiles: 1, maxFileBytes: 2000 })
    const said = async (method: string, path: string, body?: unknown, headers?: Record<string, string>) =>
      openAi((await api.call(method, path, body, headers)).body)
    const form = (content: string, fields: Record<string, string>) => {
      const made = new FormData()
      for (const [name, value] of Object.entries(fields)) made.append(name, value)
      made.append('file', new Blob([content]), 'in.jsonl')
      return made
    }
    const purpose = { purpose: 'batch' }
    expect((await said('POST', '/v1/files', '{}')).code).toBe('unsupported_media_type')
    expect((await said('POST', '/v1/files', form('x', {}))).message).toContain('purpose')
    expect((await said('POST', '/v1/files', form('x', { purpose: 'fine-tune' }))).message).toContain('fine-tune')
    expect((await said('POST', '/v1/files', form('x'.repeat(3000), purpose))).code).toBe('body_too_large')
    const broken = { 'content-type': 'multipart/form-data; boundary=b' }
    expect((await said('POST', '/v1/files', 'no form', broken)).code).toBe('invalid_request')
    expect((await said('POST', '/v1/files', 'x', { 'content-type': 'multipart/form-data' })).code).toMatch(
      /^(unsupported_media_type|invalid_request)$/,
    )
    for (const id of ['none', '..%2f..%2fetc%2fpasswd', `file-${'0'.repeat(32)}`, 'a'.repeat(2000)]) {
      expect((await said('GET', `/v1/files/${id}`)).code).toBe('not_found')
      expect((await said('GET', `/v1/files/${id}/content`)).code).toBe('not_found')
      expect((await said('DELETE', `/v1/files/${id}`)).code).toBe('not_found')
      expect((await said('GET', `/v1/batches/${id}`)).code).toBe('not_found')
      expect((await said('GET', `/v1/batches/${id}/events`)).code).toBe('not_found')
      expect((await said('POST', `/v1/batches/${id}/cancel`)).code).toBe('not_found')
    }
    const { body: file } = await api.call('POST', '/v1/files', form('{"query":"q","documents":["a"]}', purpose))
    expect((await said('POST', '/v1/files', form('x', purpose))).code).toBe('too_many_files')
    const batch = { input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '24h' }
    for (const wrong of [
      { endpoint: '/v1/chat/completions' },
      { completion_window: 'soon' },
      { completion_window: '0h' },
      { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, 'v'])) },
      { metadata: { k: 7 } },
      { request_params: { top_n: -1 } },
      { webhook: 'ftp://x/' },
      { nonsense: 1 },
    ]) {
      const { code, message } = await said('POST', '/v1/batches', { ...batch, ...wrong })
      expect([code, message]).toEqual(['invalid_request', expect.stringContaining(Object.keys(wrong)[0] ?? '')])
    }
    expect((await said('POST', '/v1/batches', { ...batch, input_file_id: 'none' })).code).toBe('not_found')
    expect((await said('GET', '/v1/batches?after=none')).code).toBe('not_found')
    expect((await api.post('/v1/batches', batch)).status).toBe(200)
    expect((await said('DELETE', `/v1/files/${file.id}`)).code).toBe('conflict')
  })
})
