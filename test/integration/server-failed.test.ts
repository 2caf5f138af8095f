/** Dead jobs over the API: seen and tried again by who administers, by nobody else. */
import { expect, it } from 'vitest'
import { ApiKeys } from '../../server/keys/api-keys.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { Api } from './api.js'
import { useStage } from './stage.js'

const stage = useStage()
const REQUEST = { id: 'dead/1', query: 'q', documents: ['a', 'b'] }

it('lists dead jobs and puts them back into the queue', async () => {
  const { redis, prefix } = stage()
  const keys = new ApiKeys(redis, serverKeysOf(prefix, 'rerank'))
  const bearer = async (scope: 'admin' | 'submit') => {
    const none = { name: '', expiresAt: null, requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }
    const { key } = await keys.create({ ...none, scopes: [scope] })
    return { authorization: `Bearer ${key}` }
  }
  const [admin, other] = [await bearer('admin'), await bearer('submit')]
  const api = await Api.start(stage(), { auth: 'required' })
  await stage().client().submit(REQUEST)
  // As a worker leaves a job that it could not do.
  const at = (what: string) => stage().queueKey('interactive', what)
  const waiting = [...(await redis.lrange(at('wait'), 0, -1)), ...(await redis.zrange(at('prioritized'), 0, '-1'))]
  expect(waiting).toHaveLength(1)
  const id = waiting[0] ?? ''
  const { generation } = JSON.parse((await redis.hget(at(id), 'data')) ?? '{}')
  await redis.lrem(at('wait'), 0, id)
  await redis.zrem(at('prioritized'), id)
  await redis.hset(at(id), { failedReason: 'gone wrong', finishedOn: Date.now() })
  await redis.zadd(at('failed'), Date.now(), id)
  const result = keysOf(prefix, 'rerank').result(REQUEST.id)
  await redis.set(result, JSON.stringify({ error: { code: 'internal', message: 'gone wrong' }, generation }))

  for (const path of ['/v1/failed', '/v1/status']) {
    expect((await api.get(path, other)).status).toBe(403)
    expect((await api.get(path, admin)).status).toBe(200)
  }
  const { data, total } = (await api.get('/v1/failed', admin)).body
  expect(total).toBe(1)
  expect(data).toMatchObject([{ object: 'failed_job', id: 'dead/1', part: '1/1', documents: 2, error: 'gone wrong' }])
  const retry = (named: string, key: Record<string, string>) =>
    api.post(`/v1/failed/${encodeURIComponent(named)}/retry`, undefined, key)
  expect((await retry('dead/1', other)).status).toBe(403)
  expect((await retry('none', admin)).body.error.code).toBe('not_found')
  const back = await retry('dead/1', admin)
  expect([back.status, back.body]).toEqual([202, { id: 'dead/1', object: 'failed_job', jobs: 1 }])
  expect((await retry('dead/1', admin)).status).toBe(404)
  await stage().worker()
  expect((await stage().client().result('dead/1')).results).toHaveLength(2)
  expect((await api.get('/v1/failed', admin)).body.data).toEqual([])
})
