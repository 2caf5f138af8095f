/** Requests that nobody waits for: taken, found again, awaited, followed, cancelled, deleted; and who is told. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const DOCUMENTS = ['red apples', 'a queue of jobs', 'workers take jobs']
const REQUEST = { query: 'job queue', documents: DOCUMENTS, return_documents: true }
const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`

describe('jobs', () => {
  it('takes a request, says where its result will be, and has it there', async () => {
    const api = await Api.start(stage())
    const taken = await api.post('/v1/rerank/jobs', REQUEST)
    expect(taken.status).toBe(202)
    expect(taken.body).toMatchObject({ object: 'rerank.job', status: 'waiting', pairs: 3 })
    const location = taken.headers.get('location') ?? ''
    expect(location).toBe(`/v1/rerank/jobs/${taken.body.id}`)
    expect((await api.get(`${location}?wait=100ms`)).body.status).toBe('waiting')
    await stage().worker()
    const { body } = await api.get(`${location}?wait=20s`)
    expect(body.status).toBe('completed')
    for (const row of body.result.results) expect(row.document).toEqual({ text: DOCUMENTS[row.index] })
    // Any other server on the same Redis knows it too.
    expect((await (await Api.start(stage())).get(location)).body).toEqual(body)
  })

  it('waits as long as the caller prefers, on every route that reranks', async () => {
    const api = await Api.start(stage())
    const later = await api.post('/v2/rerank', REQUEST, { prefer: 'respond-async' })
    expect([later.status, later.headers.get('preference-applied')]).toEqual([202, 'respond-async'])
    expect((await api.post('/v1/rerank?wait=0.1', REQUEST)).status).toBe(202)
    await stage().worker()
    const soon = await api.post('/v1/rerank', REQUEST, { prefer: 'wait=20' })
    expect([soon.status, soon.headers.get('preference-applied')]).toEqual([200, 'wait=20'])
    expect(soon.body.results).toHaveLength(3)
    const tei = await api.post('/rerank?wait=20s', { query: 'job queue', texts: DOCUMENTS })
    expect(tei.body).toHaveLength(3)
    const wrong = await api.post('/v1/rerank?wait=soon', REQUEST)
    expect([wrong.status, wrong.body.error.param]).toEqual([400, 'wait'])
  })

  it('is the same request under the same id or Idempotency-Key, and another one conflicts', async () => {
    const api = await Api.start(stage())
    const first = await api.post('/v1/rerank/jobs', REQUEST, { 'idempotency-key': 'k1' })
    const again = await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'k1' })
    expect([first.body.id, again.body.id]).toEqual(['k1', 'k1'])
    expect(again.body.created_at).toBe(first.body.created_at)
    const other = await api.post('/v1/rerank/jobs', { ...REQUEST, query: 'other' }, { 'idempotency-key': 'k1' })
    expect([other.status, other.body.error.code]).toEqual([409, 'conflict'])
    expect((await api.get('/v1/rerank/jobs/k1')).status).toBe(200)
  })

  it('lists in pages, cancels and deletes', async () => {
    const api = await Api.start(stage())
    for (const id of ['a', 'b', 'c']) await api.post('/v1/rerank/jobs', { ...REQUEST, id, query: id })
    const page = await api.get('/v1/rerank/jobs?limit=2')
    expect(page.body).toMatchObject({ has_more: true, data: [{ id: 'c' }, { id: 'b' }], last_id: 'b' })
    expect((await api.get('/v1/rerank/jobs?limit=2&after=b')).body).toMatchObject({
      has_more: false,
      data: [{ id: 'a' }],
    })
    expect((await api.get('/v1/rerank/jobs?after=z')).status).toBe(404)
    expect((await api.get('/v1/rerank/jobs?limit=0')).body.error.param).toBe('limit')
    expect((await api.post('/v1/rerank/jobs/a/cancel')).body).toMatchObject({
      status: 'cancelled',
      error: { code: 'cancelled' },
    })
    expect((await api.call('DELETE', '/v1/rerank/jobs/b')).body).toMatchObject({ deleted: true })
    expect((await api.get('/v1/rerank/jobs/b')).status).toBe(404)
    for (const path of ['..%2F..%2Fetc', '%00', 'x'.repeat(2000)]) {
      expect([400, 404]).toContain((await api.get(`/v1/rerank/jobs/${path}`)).status)
    }
  })

  it('tells what becomes of a job, and nothing twice to who comes back', async () => {
    const api = await Api.start(stage())
    const { body } = await api.post('/v1/rerank/jobs', REQUEST)
    const follow = (headers: Record<string, string> = {}) => api.get(`/v1/rerank/jobs/${body.id}/events`, headers)
    const following = follow()
    const back = follow({ 'last-event-id': 'waiting' })
    await stage().worker()
    const events = (await following).body
    expect(events).toMatch(/^id: waiting\nevent: status\ndata: \{/)
    expect(events).toMatch(/id: completed\nevent: end\ndata: .*"results".*\n\n$/)
    expect((await back).body).not.toContain('id: waiting')
    expect((await api.get('/v1/rerank/jobs/none/events')).status).toBe(404)
  })
})

it('hands the caller’s trace on with its request, where it is one', async () => {
  const api = await Api.start(stage())
  const trace = `00-${'a1'.repeat(16)}-${'b2'.repeat(8)}-01`
  await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'traced' }, { traceparent: trace })
  await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'untraced' }, { traceparent: 'nonsense' })
  const at = (what: string) => stage().queueKey('interactive', what)
  const { redis } = stage()
  const ids = [...(await redis.lrange(at('wait'), 0, -1)), ...(await redis.zrange(at('prioritized'), 0, '-1'))]
  const jobs = await Promise.all(ids.map(async (id) => JSON.parse((await redis.hget(at(id), 'data')) ?? '{}')))
  const told = jobs.map(({ requestId, traceParent }) => [requestId, traceParent])
  expect(told).toEqual(
    expect.arrayContaining([
      ['traced', trace],
      ['untraced', undefined],
    ]),
  )
})

describe('webhooks', () => {
  async function receiver(answers: number[]) {
    const taken: { headers: Record<string, string>; body: string }[] = []
    const server = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk) => {
        body += String(chunk)
      })
      request.on('end', () => {
        taken.push({ headers: request.headers as Record<string, string>, body })
        response.writeHead(answers.shift() ?? 200, { location: 'http://127.0.0.1:1/' }).end()
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    stage().onEnd(() => new Promise((resolve) => server.close(resolve)))
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, taken }
  }

  it('are signed, and sent again where nobody took them', async () => {
    const { url, taken } = await receiver([500])
    await stage().worker()
    const api = await Api.start(stage(), { webhookSecret: SECRET, webhookAllow: '127.0.0.0/8' })
    const { body } = await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: { url } })
    await until('it was taken at the second try', () => taken.length === 2, 30_000)
    const [first, second] = taken
    expect(first?.headers['webhook-id']).toBe(second?.headers['webhook-id'])
    const event = new Webhook(SECRET).verify(second!.body, second!.headers)
    expect(event).toMatchObject({ type: 'rerank.job.completed', data: { id: body.id, status: 'completed' } })
  })

  it('become dead letters that can be sent again; redirects are not followed', async () => {
    const { url, taken } = await receiver([302])
    await stage().worker()
    const api = await Api.start(stage(), { webhookSecret: SECRET, webhookAllow: '127.0.0.1', webhookAttempts: 1 })
    await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: url })
    const dead = async () => (await api.get('/v1/webhooks/failed')).body.data
    await until('it is dead', async () => (await dead()).length === 1)
    const [letter] = await dead()
    expect(letter).toMatchObject({ type: 'rerank.job.completed', reason: expect.stringContaining('302') })
    expect((await api.post(`/v1/webhooks/failed/${letter.id}/retry`)).status).toBe(202)
    await until('it was taken', () => taken.length === 2)
    await until('it is dead no more', async () => (await dead()).length === 0)
  })

  it.each([
    'http://127.0.0.1/',
    'http://[::1]/',
    'http://169.254.169.254/latest',
    'http://10.0.0.1/',
    'http://[::ffff:10.0.0.1]/',
    'http://[::ffff:a9fe:a9fe]/',
    'http://[64:ff9b::a9fe:a9fe]/',
    'http://2130706433/',
    'http://0x7f000001/',
    'http://0177.1/',
    'http://127.1/',
    'http://0.0.0.0/',
    'http://[::]/',
    'http://100.100.100.200/',
    'http://[fd00:ec2::254]/',
    'ftp://example.org/',
    'http://user:pass@example.org/',
    'nonsense',
  ])('are refused to %s', async (webhook) => {
    const api = await Api.start(stage(), { webhookSecret: SECRET })
    const { status, body } = await api.post('/v1/rerank/jobs', { ...REQUEST, webhook })
    expect([status, body.error.param]).toEqual([400, 'webhook'])
  })

  it('do not reach a private address by a name that resolves to it', async () => {
    const { url, taken } = await receiver([])
    await stage().worker()
    const api = await Api.start(stage(), { webhookSecret: SECRET, webhookAttempts: 1 })
    const named = url.replace('127.0.0.1', 'localhost')
    await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: named })
    await until('it is dead', async () => (await api.get('/v1/webhooks/failed')).body.data.length === 1)
    expect(taken).toEqual([])
  })

  it('need a secret', async () => {
    const api = await Api.start(stage())
    const { body } = await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: 'https://example.org/' })
    expect(body.error.message).toContain('RANKMILL_WEBHOOK_SECRET')
  })
})
