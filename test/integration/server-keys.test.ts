/** API keys: who may do what, what one key sees of another's, and how much each may ask for. */
import { describe, expect, it } from 'vitest'
import { ApiKeys, type NewApiKey } from '../../server/keys/api-keys.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { Api } from './api.js'
import { runCommand } from './command.js'
import { REDIS_URL, until, useStage } from './stage.js'

const stage = useStage()
const REQUEST = { query: 'job queue', documents: ['a queue', 'a job', 'an apple'] }
const UNLIMITED = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }

function keys(): ApiKeys {
  return new ApiKeys(stage().redis, serverKeysOf(stage().prefix, 'rerank'))
}

async function bearer(wanted: Partial<NewApiKey> = {}): Promise<{ authorization: string }> {
  const { key } = await keys().create({
    name: '',
    scopes: ['submit', 'read'],
    expiresAt: null,
    ...UNLIMITED,
    ...wanted,
  })
  return { authorization: `Bearer ${key}` }
}

describe('keys', () => {
  it('are asked for beyond this machine, and where somebody says so', async () => {
    const refused = Api.start(stage(), { host: '0.0.0.0' })
    await expect(refused).rejects.toMatchObject({
      code: 'invalid_configuration',
      message: expect.stringContaining('keys create'),
    })
    const open = await Api.start(stage(), { host: '0.0.0.0', auth: 'open' })
    expect((await open.get('/v1/rerank/jobs')).status).toBe(200)
    const mine = await bearer()
    const api = await Api.start(stage(), { host: '0.0.0.0' })
    const none = await api.get('/v1/rerank/jobs')
    expect([none.status, none.body.error.code, none.headers.get('www-authenticate')]).toEqual([
      401,
      'unauthorized',
      'Bearer',
    ])
    expect((await api.get('/v1/rerank/jobs', mine)).status).toBe(200)
    for (const path of ['/healthz', '/openapi.json', '/docs']) expect((await api.get(path)).status).toBe(200)
    expect((await api.get('/metrics')).status).toBe(401)
    expect((await api.get('/metrics', mine)).status).toBe(403)
    expect((await api.get('/metrics', await bearer({ scopes: ['admin'] }))).status).toBe(200)
  })

  it('are good for what they were made for, as long as they were made for it', async () => {
    const api = await Api.start(stage(), { auth: 'required' })
    const reader = await bearer({ scopes: ['read'] })
    const refused = await api.post('/v1/rerank', REQUEST, reader)
    expect([refused.status, refused.body.error.code]).toEqual([403, 'forbidden'])
    const expired = await bearer({ expiresAt: Date.now() - 1 })
    expect((await api.get('/v1/models', expired)).status).toBe(401)
    const id = (await keys().list())[0]!.id
    await keys().revoke(id)
    expect((await api.get('/v1/models', reader)).status).toBe(401)
    const wrong = reader.authorization.slice(0, -3)
    for (const authorization of [`${wrong}abc`, 'Bearer rk_0_0', 'Basic abc', 'Bearer', `Bearer ${'x'.repeat(5000)}`]) {
      expect((await api.get('/v1/models', { authorization })).status).toBe(401)
    }
  })

  it('are kept as hashes, and their use is noted', async () => {
    const mine = await bearer()
    const api = await Api.start(stage(), { auth: 'required' })
    await api.get('/v1/models', mine)
    const secret = mine.authorization.slice(-43)
    const stored = await stage().redis.hvals(`${stage().prefix}:api-keys`)
    expect(stored.join()).not.toContain(secret)
    await until('its use is noted', async () => (await keys().list())[0]?.lastUsedAt !== null)
  })

  it('see nothing of one another', async () => {
    await stage().worker()
    const api = await Api.start(stage(), { auth: 'required' })
    const [mine, other] = [await bearer(), await bearer()]
    await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'same' }, mine)
    // Under the same id: neither a conflict nor another's answer.
    await api.post('/v1/rerank/jobs', { ...REQUEST, query: 'another', id: 'same' }, other)
    await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'only' }, mine)
    const seen = await api.get('/v1/rerank/jobs/only?wait=20s', mine)
    expect(seen.body).toMatchObject({ id: 'only', status: 'completed', result: { id: 'only' } })
    const unseen = await api.get('/v1/rerank/jobs/only', other)
    expect([unseen.status, unseen.body.error.message]).toEqual([404, 'no job "only" is known'])
    expect((await api.get('/v1/rerank/jobs', other)).body.data.map(({ id }: { id: string }) => id)).toEqual(['same'])

    const form = new FormData()
    form.append('purpose', 'batch')
    form.append('file', new Blob(['{"query":"q","documents":["a"]}']), 'in.jsonl')
    const file = (await api.call('POST', '/v1/files', form, mine)).body
    const body = { input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '1h' }
    expect((await api.post('/v1/batches', body, other)).status).toBe(404)
    const batch = (await api.post('/v1/batches', body, mine)).body
    const state = async () => (await api.get(`/v1/batches/${batch.id}`, mine)).body
    await until('the batch is done', async () => (await state()).status === 'completed')
    const { output_file_id: output } = await state()
    for (const path of [`/v1/files/${file.id}`, `/v1/files/${output}/content`, `/v1/batches/${batch.id}`]) {
      expect((await api.get(path, other)).status).toBe(404)
      expect((await api.get(path, mine)).status).toBe(200)
    }
    expect((await api.get('/v1/files', other)).body.data).toEqual([])
    expect((await api.get('/v1/batches', other)).body.data).toEqual([])

    const ndjson = { 'content-type': 'application/x-ndjson' }
    await api.call('PUT', '/v1/corpora/c', '{"id":"a","text":"mine"}', { ...mine, ...ndjson })
    expect((await api.get('/v1/corpora/c', other)).status).toBe(404)
    const named = { query: 'q', documents: { corpus: 'c', ids: ['a'] }, return_documents: true }
    expect((await api.post('/v1/rerank', named, mine)).body.results[0].document.text).toBe('mine')
    const missing = await api.post('/v1/rerank', named, other)
    expect([missing.status, missing.body.error.message]).toEqual([404, expect.stringContaining('"c"')])
    expect(
      (await api.post('/v1/rerank', { ...named, documents: { corpus: 'file:x', ids: ['a'] } }, other)).status,
    ).toBe(403)
  })

  it('have limits, which hold at every server, and say when to come back', async () => {
    await stage().worker()
    const servers = [
      await Api.start(stage(), { auth: 'required' }),
      await Api.start(stage(), { auth: 'required' }),
    ] as const
    const slow = await bearer({ requestsPerMinute: 2 })
    const statuses: number[] = []
    for (let i = 0; i < 3; i++) statuses.push((await servers[i % 2]!.post('/v1/rerank', REQUEST, slow)).status)
    expect(statuses).toEqual([200, 200, 429])
    const refused = await servers[0].post('/v1/rerank', REQUEST, slow)
    expect(refused.body.error).toMatchObject({
      code: 'rate_limited',
      message: expect.stringContaining('2 requests a minute'),
    })
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(10)
    // A request larger than the limit is served, and paid off.
    const small = await bearer({ pairsPerMinute: 2 })
    expect((await servers[0].post('/v1/rerank', REQUEST, small)).status).toBe(200)
    expect((await servers[1].post('/v1/rerank', REQUEST, small)).status).toBe(429)
  })

  it('learn nothing by the time of what another asked, unless they share what is known', async () => {
    await stage().worker()
    const [mine, other] = [await bearer(), await bearer()]
    const cached = async (api: Api, query: string, key: Record<string, string>) =>
      (await api.post('/v1/rerank', { ...REQUEST, query }, key)).body.usage.cached
    const apart = await Api.start(stage(), { auth: 'required' })
    expect(await cached(apart, 'mine', mine)).toBe(0)
    expect(await cached(apart, 'mine', mine)).toBe(3)
    expect(await cached(apart, 'mine', other)).toBe(0)
    const shared = await Api.start(stage(), { auth: 'required', scoreCacheScope: 'shared' })
    expect(await cached(shared, 'ours', mine)).toBe(0)
    expect(await cached(shared, 'ours', other)).toBe(3)
  })

  it('do not join one another’s requests that wait, which would tell the same', async () => {
    const [mine, other] = [await bearer(), await bearer()]
    const api = await Api.start(stage(), { auth: 'required' })
    const asked = [mine, mine, other].map((key) => api.post('/v1/rerank', REQUEST, key))
    await until('both keys’ jobs are queued', async () => (await stage().queued('interactive')) >= 2)
    expect(await stage().queued('interactive')).toBe(2)
    await stage().worker()
    for (const answer of await Promise.all(asked)) expect(answer.status).toBe(200)
  })

  it('do not delay one another, however small the requests of a flood are', async () => {
    const api = await Api.start(stage(), { auth: 'required' })
    const [flood, other] = [await bearer(), await bearer()]
    for (let i = 0; i < 80; i++)
      await api.post('/v1/rerank/jobs', { query: `flood ${i}`, documents: ['a'], id: `f${i}` }, flood)
    await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'first' }, other)
    // What is urgent waits in a list, which is served before whatever has a place behind it.
    const key = (what: string) => stage().queueKey('interactive', what)
    const { redis } = stage()
    const urgent = await redis.lrange(key('wait'), 0, -1)
    const behind = await redis.zrange(key('prioritized'), 0, '-1')
    expect([urgent.length, behind.length]).toEqual([17, 64])
    const requests = await Promise.all(
      urgent.map(async (id) => JSON.parse((await redis.hget(key(id), 'data')) ?? '{}')),
    )
    expect(requests.map(({ requestId }) => String(requestId)).filter((id) => id.endsWith(':first'))).toHaveLength(1)
  })

  it('leave room for one another where a lane or a server is full', async () => {
    const api = await Api.start(stage(), { auth: 'required', maxQueuedJobs: 20, maxWaitingRequests: 20 })
    const [flood, other] = [await bearer(), await bearer()]
    const documents = Array.from({ length: 200 }, (_, i) => `document ${i}`)
    const job = (i: number, key: { authorization: string }) =>
      api.post('/v1/rerank/jobs', { query: `q ${i}`, documents }, key)
    const statuses: number[] = []
    for (let i = 0; i < 20; i++) statuses.push((await job(i, flood)).status)
    expect(statuses).toEqual([...Array(18).fill(202), 429, 429])
    expect((await job(0, other)).status).toBe(202)
    const gone = new AbortController()
    stage().onEnd(() => gone.abort())
    const waits = (i: number, key: { authorization: string }) =>
      api.post('/v1/rerank', { ...REQUEST, query: `waits ${i}`, priority: 600 }, key, gone.signal).then(
        ({ status }) => status,
        () => 'waits',
      )
    const all = Array.from({ length: 18 }, (_, i) => waits(i, flood))
    const queued = () => stage().queued('bulk')
    await until('they wait', async () => (await queued()) === 18)
    expect(await waits(18, flood)).toBe(429)
    const first = waits(0, other)
    await until('it waits too', async () => (await queued()) === 19)
    gone.abort()
    expect(new Set(await Promise.all([...all, first]))).toEqual(new Set(['waits']))
  })

  it('do not delay one another: a flood of one waits behind the first request of another', async () => {
    const api = await Api.start(stage(), { auth: 'required' })
    const [flood, other] = [await bearer(), await bearer({ queuedPairs: 600 })]
    const documents = Array.from({ length: 256 }, (_, i) => `document ${i}`)
    for (let i = 0; i < 8; i++)
      await api.post('/v1/rerank/jobs', { query: `flood ${i}`, documents, id: `f${i}` }, flood)
    await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'first' }, other)
    const more = await api.post(
      '/v1/rerank/jobs',
      { query: 'q', documents: Array.from({ length: 700 }, () => 'a') },
      other,
    )
    expect([more.status, more.body.error.code]).toEqual([429, 'rate_limited'])
    // Jobs of one size a time show the order that they are taken in.
    await stage().worker({ concurrency: 1, maxInflightPairs: 256 })
    await api.get('/v1/rerank/jobs/first?wait=60s', other)
    const done = (await api.get('/v1/rerank/jobs', flood)).body.data.filter(
      ({ status }: { status: string }) => status === 'completed',
    )
    expect(done.length).toBeLessThan(4)
  })
})

describe('rankmill keys', () => {
  it('makes a key, shows it once, lists and revokes it', async () => {
    const at = ['--redis', REDIS_URL, '--prefix', stage().prefix]
    const run = (...args: string[]) => runCommand(['keys', ...args, ...at], '.', {})
    const made = await run('create', '--name', 'ours', '--scope', 'submit,admin', '--expires', '7')
    expect([made.code, made.stdout]).toEqual([0, expect.stringMatching(/^rk_[0-9a-f]{12}_[\w-]{43}\n$/)])
    const listed = await run('ls', '--json')
    const record = JSON.parse(listed.stdout)
    expect(record).toMatchObject({ name: 'ours', scopes: ['submit', 'admin'], last_used_at: null })
    expect(listed.stdout).not.toContain(made.stdout.trim().slice(-43))
    expect((await run('revoke', record.id)).code).toBe(0)
    expect((await run('ls', '--json')).stdout).toBe('')
    expect((await run('revoke', record.id)).code).toBe(1)
    expect((await run('create', '--scope', 'everything')).code).toBe(2)
  })
})
