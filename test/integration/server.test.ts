/** What callers of the API rely on: every dialect's answer and errors, over real HTTP, Redis and workers. */
import { request as httpRequest } from 'node:http'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import * as zlib from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { type Compression, compressedFrame, decompressed } from '../../producer/lines/compression.js'
import { type Answer, Api } from './api.js'
import { until, useStage } from './stage.js'

type Body = Answer['body']
const stage = useStage()
const QUERY = 'job queue'
const DOCUMENTS = [
  'red apples and green pears',
  'a queue of jobs',
  'workers take jobs from the queue',
  '',
  'the quick brown fox',
]
const REQUEST = { query: QUERY, documents: DOCUMENTS }

async function ready(options = {}): Promise<Api> {
  await stage().worker()
  return Api.start(stage(), options)
}

describe('dialects', () => {
  it('answers /v1/rerank as the library does, with rows under both names and usage in everybody’s words', async () => {
    const api = await ready()
    const expected = await stage()
      .client()
      .rerank({ ...REQUEST, topN: 3 })
    const { status, body, headers } = await api.post('/v1/rerank', {
      ...REQUEST,
      top_n: 3,
      model: null,
      return_documents: null,
    })
    expect(status).toBe(200)
    expect(headers.get('x-request-id')).toBe(body.id)
    expect(body.results).toEqual(expected.results)
    expect(body.data.map(({ index }: { index: number }) => index)).toEqual(expected.results.map(({ index }) => index))
    expect(body).toMatchObject({ object: 'list', usage: { pairs: 5 }, meta: { billed_units: { search_units: 1 } } })
    expect(body.usage.total_tokens).toBe(body.usage.tokens)
  })

  it('returns documents as they were sent, whatever they were', async () => {
    const api = await ready()
    const documents = ['a queue', { text: 'jobs', title: 'x', n: 7 }]
    const asSent = [{ text: 'a queue' }, documents[1]]
    for (const path of ['/v1/rerank', '/v2/rerank', '/cohere/v1/rerank', '/jina/v1/rerank', '/vllm/rerank']) {
      const { body } = await api.post(path, { query: QUERY, documents, return_documents: true })
      for (const row of body.results) expect(row.document).toEqual(asSent[row.index])
    }
    const infinity = await api.post('/infinity/rerank', { query: QUERY, documents, return_documents: true })
    for (const row of infinity.body.results) expect(row.document).toBe(['a queue', 'jobs'][row.index])
    const voyage = await api.post('/voyage/v1/rerank', { query: QUERY, documents: ['a', 'b'], return_documents: true })
    for (const row of voyage.body.data) expect(row.document).toBe(['a', 'b'][row.index])
  })

  it('takes top_k or truncation for Voyage, whose rows are called data', async () => {
    const api = await ready()
    for (const sign of [{ top_k: 2 }, { truncation: true }]) {
      const { body } = await api.post('/v1/rerank', { ...REQUEST, ...sign })
      expect(body.results).toBeUndefined()
      expect(body.data).toHaveLength('top_k' in sign ? 2 : 5)
    }
  })

  it('reads the fields of a document that rank_fields names', async () => {
    const api = await ready()
    const documents = [
      { title: 'apples', body: 'jobs' },
      { title: 'a queue', body: 'jobs' },
    ]
    const { body } = await api.post('/v1/rerank', { query: QUERY, documents, rank_fields: ['title', 'body'] })
    const plain = await api.post('/v1/rerank', { query: QUERY, documents: ['apples\njobs', 'a queue\njobs'] })
    expect(body.results).toEqual(plain.body.results)
    const none = await api.post('/v1/rerank', { query: QUERY, documents })
    expect([none.status, none.body.error.param]).toEqual([400, 'documents.0.text'])
  })

  it('speaks TEI where the body has texts, with logits where they are asked for', async () => {
    const api = await ready()
    const texts = DOCUMENTS
    const { body } = await api.post('/rerank', { query: QUERY, texts, return_text: true })
    expect(body).toHaveLength(5)
    for (const row of body) expect(row.text).toBe(texts[row.index])
    const raw = await api.post('/tei/rerank', { query: QUERY, texts, raw_scores: true })
    for (const [i, { score }] of raw.body.entries()) expect(1 / (1 + Math.exp(-score))).toBeCloseTo(body[i].score, 9)
    const shared = await api.post('/rerank', { query: QUERY, documents: texts })
    expect(shared.body.results.map(({ relevance_score }: { relevance_score: number }) => relevance_score)).toEqual(
      body.map(({ score }: { score: number }) => score),
    )
  })

  it('scores pairs in the order that they were sent', async () => {
    const api = await ready()
    const { body } = await api.post('/score', { text_1: QUERY, text_2: DOCUMENTS })
    const reranked = await api.post('/v1/rerank', REQUEST)
    const byIndex = [...reranked.body.results].sort((a, b) => a.index - b.index)
    expect(body.data.map(({ score }: { score: number }) => score)).toEqual(byIndex.map((row) => row.relevance_score))
    const pairs = await api.post('/v1/score', { text_1: [QUERY, QUERY], text_2: DOCUMENTS.slice(1, 3) })
    expect(pairs.body.data.map(({ score }: { score: number }) => score)).toEqual(
      byIndex.slice(1, 3).map((row) => row.relevance_score),
    )
    const uneven = await api.post('/score', { text_1: ['a', 'b'], text_2: ['a', 'b', 'c'] })
    expect([uneven.status, uneven.body.error.param]).toEqual([400, 'text_2'])
  })

  it('splits many documents instead of refusing them, and takes compressed bodies', async () => {
    const api = await ready({ maxJobPairs: 32 })
    const documents = Array.from({ length: 1000 }, (_, i) => `document ${i % 50} about jobs`)
    const text = JSON.stringify({ query: QUERY, documents })
    const { status, body } = await api.post('/v1/rerank', text)
    expect([status, body.results.length]).toEqual([200, 1000])
    const zipped = await api.post('/v1/rerank', zlib.gzipSync(text), { 'content-encoding': 'gzip' })
    const zstd = await api.post('/v1/rerank', await compressedFrame(Buffer.from(text), 'zstd'), {
      'content-encoding': 'zstd',
    })
    expect(zipped.body.results).toEqual(body.results)
    expect(zstd.body.results).toEqual(body.results)
  })

  // Node has Zstandard of its own from 22.15 on.
  const BEST = 'createZstdCompress' in zlib ? 'zstd' : 'gzip'
  it.each([
    ['zstd, gzip', BEST],
    ['zstd;q=0, gzip', 'gzip'],
    ['gzip', 'gzip'],
    ['identity', undefined],
  ] as const)('compresses answers, short and streamed, for who takes %s', async (accepted, encoding) => {
    const api = await ready({ maxJobPairs: 600 })
    for (const count of [40, 1200]) {
      const documents = Array.from({ length: count }, (_, i) => `document ${i % 50} about jobs`)
      const text = JSON.stringify({ query: QUERY, documents, id: `${count}` })
      const headers = { 'content-type': 'application/json', 'accept-encoding': accepted }
      const answer = await new Promise<{ encoding: string | undefined; bytes: Buffer }>((resolve, reject) => {
        const asked = httpRequest(`${api.url}/v1/rerank`, { method: 'POST', headers }, (response) => {
          const encoding = response.headers['content-encoding']
          buffer(response).then((bytes) => resolve({ encoding, bytes }), reject)
        })
        asked.on('error', reject)
        asked.end(text)
      })
      expect(answer.encoding).toBe(encoding)
      const parts: Uint8Array[] = []
      const compression: Compression = encoding ?? 'none'
      for await (const part of decompressed(Readable.from([answer.bytes]), compression)) parts.push(part)
      const { body } = await api.post('/v1/rerank', text)
      expect(JSON.parse(Buffer.concat(parts).toString()).results).toEqual(body.results)
    }
  })

  it('gives models other names', async () => {
    const api = await ready({ modelAliases: '*=one' })
    const refused = await api.post('/v1/rerank', { ...REQUEST, model: 'rerank-v3.5' })
    expect(refused.body.error?.code).toBe('unknown_model')
    const listed = await api.get('/v1/models')
    const [{ id }] = listed.body.data
    const named = await Api.start(stage(), { modelAliases: `rerank-v3.5=${id}` })
    expect((await named.post('/v1/rerank', { ...REQUEST, model: 'rerank-v3.5' })).status).toBe(200)
    expect((await named.get(`/v1/models/${id}`)).body).toMatchObject({ object: 'model', id })
    expect((await named.get('/v1/models/none')).status).toBe(404)
  })
})

describe('errors', () => {
  it.each([
    [
      '/v1/rerank',
      { documents: ['a'] },
      400,
      (b: Body) => b.error.param === 'query' && b.error.code === 'invalid_request',
    ],
    ['/v1/rerank', { query: 'q', documents: [] }, 400, (b: Body) => b.error.param === 'documents'],
    ['/v1/rerank', { query: 'q', documents: ['a', 7] }, 400, (b: Body) => b.error.param.startsWith('documents')],
    [
      '/v1/rerank',
      { query: 'q', documents: ['a'], topn: 3 },
      400,
      (b: Body) => b.error.message.includes('topn: unknown field'),
    ],
    ['/v1/rerank', { query: 'q', documents: ['a'], top_n: 0 }, 400, (b: Body) => b.error.param === 'top_n'],
    ['/v1/rerank', { query: 'q', documents: ['a'], top_n: 1, top_k: 1 }, 400, (b: Body) => b.error.param === 'top_k'],
    ['/v1/rerank', '{"query":', 400, (b: Body) => b.error.message.includes('not JSON')],
    ['/v1/rerank', '[[[[', 400, (b: Body) => b.error.message.includes('not JSON')],
    [
      '/v1/rerank',
      `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
      400,
      (b: Body) => b.error.code === 'invalid_request',
    ],
    [
      '/v1/rerank',
      '{"query":"q","documents":["a"],"__proto__":{"top_n":1}}',
      400,
      (b: Body) => b.error.code === 'invalid_request',
    ],
    ['/v1/rerank', Buffer.from([0x7b, 0x22, 0xff, 0x22]), 400, (b: Body) => b.error.message.includes('UTF-8')],
    ['/v1/rerank', { query: 'q', documents: ['\ud800'] }, 400, (b: Body) => b.error.message.includes('surrogate')],
    ['/v2/rerank', { documents: ['a'] }, 400, (b: Body) => typeof b.message === 'string' && b.error.param === 'query'],
    ['/voyage/v1/rerank', { documents: ['a'] }, 400, (b: Body) => typeof b.detail === 'string'],
    ['/jina/v1/rerank', { documents: ['a'] }, 400, (b: Body) => typeof b.detail === 'string'],
    ['/rerank', { texts: ['a'] }, 400, (b: Body) => typeof b.error === 'string' && b.error_type === 'validation'],
    ['/tei/rerank', { query: 'q' }, 400, (b: Body) => typeof b.error === 'string'],
    ['/vllm/rerank', { documents: ['a'] }, 400, (b: Body) => b.error.code === 400],
    ['/infinity/rerank', { documents: ['a'] }, 400, (b: Body) => b.error.code === 400],
    ['/v1/nothing', {}, 404, (b: Body) => b.error.code === 'not_found'],
    ['/v1/models', {}, 405, (b: Body) => b.error.code === 'method_not_allowed'],
  ])('%s answers what is wrong (%#)', async (path, body, status, isRight) => {
    const api = await Api.start(stage())
    const answer = await api.post(path, body, { 'x-request-id': 'mine-1' })
    expect(answer.status).toBe(status)
    expect(answer.headers.get('x-request-id')).toBe('mine-1')
    expect(answer.body).toSatisfy(isRight)
    expect(JSON.stringify(answer.body)).toContain('mine-1')
  })

  it('refuses other content types, methods, and bodies over the limit, compressed or not', async () => {
    const api = await Api.start(stage(), { maxBodyBytes: 4096 })
    const typed = (type: string) => api.call('POST', '/v1/rerank', 'query=q', { 'content-type': type })
    for (const type of ['text/plain', 'application/x-www-form-urlencoded']) {
      expect((await typed(type)).body.error.code).toBe('unsupported_media_type')
    }
    const big = JSON.stringify({ query: 'q', documents: ['x'.repeat(5000)] })
    expect((await api.post('/v1/rerank', big)).body.error.code).toBe('body_too_large')
    const bomb = await api.post('/v1/rerank', zlib.gzipSync(big), { 'content-encoding': 'gzip' })
    expect([bomb.status, bomb.body.error.code]).toEqual([413, 'body_too_large'])
    const broken = await api.post('/v1/rerank', 'no gzip', { 'content-encoding': 'gzip' })
    expect([broken.status, broken.body.error.code]).toEqual([400, 'invalid_request'])
    const unknown = await api.post('/v1/rerank', '{}', { 'content-encoding': 'br' })
    expect(unknown.status).toBe(415)
    const method = await api.call('PUT', '/v1/rerank', {})
    expect([method.status, method.headers.get('allow')]).toEqual([405, 'POST'])
  })

  it('says when to come back where too many wait, and cancels what its caller leaves', async () => {
    const api = await Api.start(stage(), { maxWaitingRequests: 1 })
    const hangUp = new AbortController()
    const first = api.post('/v1/rerank', { ...REQUEST, id: 'left' }, {}, hangUp.signal).catch(() => undefined)
    const client = stage().client()
    const state = () =>
      client.status('left').then(
        ({ state: now }) => now,
        () => 'unknown',
      )
    await until('it waits', async () => (await state()) === 'waiting')
    const second = await api.post('/v1/rerank', REQUEST)
    expect([second.status, second.body.error.code]).toEqual([429, 'overloaded'])
    expect(Number(second.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    hangUp.abort()
    await first
    await until('it is cancelled', async () => (await state()) === 'cancelled')
  })

  it('says so where the queue is full, in seconds', async () => {
    const api = await Api.start(stage(), { maxQueuedJobs: 1 })
    const client = stage().client()
    await client.submit(REQUEST)
    const { status, headers, body } = await api.post('/v1/rerank', { query: 'another', documents: ['a'] })
    expect([status, body.error.code]).toEqual([429, 'overloaded'])
    expect(headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
  })

  it('answers a document that was cut where the caller allows no truncation', async () => {
    const api = await ready({})
    const documents = ['word '.repeat(5000)]
    expect((await api.post('/v1/rerank', { query: 'q', documents })).status).toBe(200)
    const voyage = await api.post('/voyage/v1/rerank', { query: 'q', documents, truncation: false })
    expect([voyage.status, voyage.body.error.code]).toEqual([400, 'document_too_long'])
    const tei = await api.post('/tei/rerank', { query: 'q', texts: documents, truncate: false })
    expect([tei.status, tei.body.code]).toEqual([400, 'document_too_long'])
  })
})

describe('the server itself', () => {
  it('says whether it lives, is ready, and what it measures; and describes itself', async () => {
    const api = await Api.start(stage())
    expect((await api.get('/healthz')).status).toBe(200)
    expect((await api.get('/readyz')).status).toBe(503)
    await stage().worker()
    expect((await api.get('/readyz')).body).toMatchObject({ ok: true })
    await api.post('/v1/rerank', REQUEST)
    const metrics = await api.get('/metrics')
    expect(metrics.body).toContain('rankmill_http_requests_total{method="POST",route="/v1/rerank",status="200"} 1')
    expect(metrics.body).toContain('rankmill_queue_jobs')
    const { body } = await api.get('/openapi.json')
    expect(body.openapi).toBe('3.1.0')
    expect(Object.keys(body.paths)).toEqual(
      expect.arrayContaining(['/v1/rerank', '/v2/rerank', '/rerank', '/v1/rerank/jobs/{id}']),
    )
    for (const path of ['/docs', '/docs/start.js', '/docs/swagger-ui-bundle.js'])
      expect((await api.get(path)).status).toBe(200)
    for (const path of ['/', '/docs', '/queues']) {
      const { status, headers, body } = await api.get(path)
      expect([path, status]).toEqual([path, 200])
      const policy = headers.get('content-security-policy') ?? ''
      expect(policy).toContain("default-src 'self'")
      // No page asks another host for anything.
      expect(policy).not.toMatch(/https?:|\*/)
      expect(body).not.toMatch(/(src|href|action)="?(https?:)?\/\//)
    }
    expect((await api.get('/healthz')).headers.get('access-control-allow-origin')).toBeNull()
  })
})
