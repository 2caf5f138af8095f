/** What an API key has under way, as its limits count it. */
import { expect, it } from 'vitest'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { ServerScripts } from '../../shared/redis/server-scripts.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const NONE = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0 }
const HOUR_MS = 3_600_000

function limits(): ServerScripts {
  return new ServerScripts(stage().redis, serverKeysOf(stage().prefix, 'rerank'))
}
const queued = async () =>
  (await limits().admit('me', { ...NONE, queuedPairs: 1 }, 'look', 1_000_000, 1000)).queuedPairs

it('counts what waits for long, whatever short came after it', async () => {
  await limits().admit('me', NONE, 'long', 100, HOUR_MS)
  await limits().admit('me', NONE, 'short', 7, 50)
  expect(await queued()).toBe(107)
  await until('the short one is forgotten', async () => (await queued()) === 100)
  await limits().release('me', 'long')
  await limits().admit('me', NONE, 'next', 5, HOUR_MS)
  expect(await queued()).toBe(5)
})

it('counts work once, however often it is admitted and released', async () => {
  for (const pairs of [10, 30]) await limits().admit('me', NONE, 'same', pairs, HOUR_MS)
  await limits().admit('me', NONE, 'other', 1, HOUR_MS)
  expect(await queued()).toBe(31)
  for (const name of ['same', 'same', 'unknown']) await limits().release('me', name)
  expect(await queued()).toBe(1)
})

it('goes on from what an older server noted, and from nothing', async () => {
  const { redis, prefix } = stage()
  const keys = serverKeysOf(prefix, 'rerank')
  const [set, hash] = keys.outstanding('me')
  await redis.zadd(set, Date.now() + HOUR_MS, 'old')
  await redis.hset(hash, 'old', 40)
  await limits().admit('me', NONE, 'new', 2, HOUR_MS)
  expect(await queued()).toBe(42)
  await redis.del(set, hash)
  await limits().admit('me', NONE, 'new', 2, HOUR_MS)
  expect(await queued()).toBe(2)
})
