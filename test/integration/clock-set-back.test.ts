/**
 * Redis' clock, or a server's, is set back by an hour: what was said to be a moment ago is an hour ahead then, and so is what was
 * to last for a moment. The same times are made here by setting forward what was noted before.
 */
import { expect, it } from 'vitest'
import { JobRecords } from '../../server/jobs/job-records.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { ServerScripts } from '../../shared/redis/server-scripts.js'
import { kill } from './own-redis.js'
import { caretakerOf, documents, lifeOf } from './request-stage.js'
import { until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const HOUR_MS = 3_600_000

async function setForward(key: string): Promise<void> {
  const { redis } = stage()
  const members = await redis.zrange(key, 0, '-1')
  for (const member of members) await redis.zincrby(key, HOUR_MS, member)
}

/** Keys that were to go in a moment, and stay for an hour. */
async function prolong(keys: readonly string[]): Promise<void> {
  for (const key of keys) await stage().redis.pexpire(key, HOUR_MS + 6000)
}

it('the jobs of a worker that was killed are back in the queue within seconds', async () => {
  const { keys } = lifeOf(stage())
  const client = stage().client()
  const killed = workerProcess(stage(), '--batch-pairs', '1', '--score-cache-ttl-ms', '0')
  await ready(killed)
  await until('it looks after the others', async () => (await stage().redis.exists(keys.caretaker)) === 1)
  await client.submit({ id: 'r', query: 'q', documents: documents('r', 4000) })
  await until('it runs', async () => (await stage().keys('held:*')).length > 0)
  await kill(killed)
  await setForward(keys.workersSeen)
  await setForward(keys.open)
  await prolong([keys.caretaker, ...(await stage().keys('*:lock'))])
  await stage().worker()
  expect((await client.result('r', { timeoutMs: 40_000 })).results).toHaveLength(4000)
})

it('a request whose job is gone is found, however far ahead it was to be looked after', async () => {
  const { keys } = lifeOf(stage())
  const { caretaker, reconciled } = await caretakerOf(stage())
  const client = stage().client()
  await client.submit({ id: 'r', query: 'q', documents: ['a'] })
  await stage().redis.unlink(await stage().keys('rerank*'))
  await setForward(keys.open)
  await until('it is found', async () => caretaker.look().then(() => reconciled.length > 0))
  await expect(client.result('r')).rejects.toMatchObject({ code: 'request_lost' })
})

it('a batch whose server is gone is taken over when its lease would have run out', async () => {
  const keys = serverKeysOf(stage().prefix, 'rerank')
  const scripts = new ServerScripts(stage().redis, keys)
  const { redis } = stage()
  await redis.hset(keys.batch('b'), 'record', '{}')
  expect(await scripts.claim('b', 'one', 300)).toBe(1)
  expect(await scripts.beat('b', 1, 300)).toBe('held')
  await redis.hincrby(keys.batch('b'), 'expires', HOUR_MS)
  // Not at once: whoever holds it has its time to say so.
  expect(await scripts.claim('b', 'other', 60_000)).toBe(0)
  await until('it is taken over', async () => (await scripts.claim('b', 'other', 300)) === 2, 5000)
})

it('a key that has used up its minute has another minute to wait at most', async () => {
  const keys = serverKeysOf(stage().prefix, 'rerank')
  const scripts = new ServerScripts(stage().redis, keys)
  const limits = { requestsPerMinute: 1, pairsPerMinute: 0, queuedPairs: 0 }
  const admit = () => scripts.admit('me', limits, 'r', 1, 1000)
  expect((await admit()).against).toBe('')
  await stage().redis.hincrby(keys.limits('me'), 'requests-at', HOUR_MS)
  const { against, retryAfterMs } = await admit()
  expect(against).toBe('requests')
  expect(retryAfterMs).toBeLessThanOrEqual(60_000)
})

it('a job of a server that is gone is looked at, however far ahead that was to be', async () => {
  const records = new JobRecords(stage().redis, serverKeysOf(stage().prefix, 'rerank'), HOUR_MS)
  const flags = { rawScores: false, wholeDocuments: false, webhook: null }
  const now = Date.now()
  await records.add({ id: 'r', owner: 'me', requestId: 'r', createdAt: now, pairs: 1, ...flags }, now + 30_000)
  expect(await records.due(now, 10)).toEqual([])
  expect(await records.due(now - HOUR_MS, 10)).toEqual(['r'])
})
