/** A plan does what it says: its workers have the time, and Redis the room. */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { simulateFleet } from '../../../bench/fleet-simulation.js'
import { planFleet, type Workload } from '../../../producer/capacity/plan.js'
import { costOf, PRODUCER_COST, REDIS_COST } from '../../../producer/capacity/queue-costs.js'
import { resolveOptions } from '../../../shared/options.js'

const options = resolveOptions({}, {})
const work: Workload = {
  pairs: 10_000_000,
  tokensPerPair: 200,
  pairsPerRequest: 100,
  bytesPerDocument: 900,
  seconds: 8 * 3600,
  reserve: 0.2,
}
const idle = { queuedJobs: 0, liveWorkers: 0 }

it('has as many workers as the work needs with the reserve, and not one more', () => {
  const numbers = {
    pairs: fc.integer({ min: 1, max: 1e9 }),
    seconds: fc.integer({ min: 1, max: 1e6 }),
    reserve: fc.double({ min: 0, max: 0.9, noNaN: true }),
  }
  fc.assert(
    fc.property(fc.record(numbers), fc.integer({ min: 100, max: 1e8 }), (wish, tokensPerSecond) => {
      const plan = planFleet({ ...work, ...wish }, { tokensPerSecond, ...idle }, options)
      const able = (workers: number) => workers * plan.pairsPerSecondOfWorker * (1 - wish.reserve)
      expect(able(plan.workers)).toBeGreaterThanOrEqual(plan.pairsPerSecondNeeded * (1 - 1e-9))
      if (plan.workers > 1) expect(able(plan.workers - 1)).toBeLessThan(plan.pairsPerSecondNeeded)
      expect(plan.secondsTaken).toBeLessThanOrEqual(wish.seconds * (1 + 1e-9))
    }),
  )
})

it('counts what waits already, and says how long those that are alive would take', () => {
  const fleet = { tokensPerSecond: 20_000, queuedJobs: 0, liveWorkers: 2 }
  const alone = planFleet(work, fleet, options)
  const behind = planFleet(work, { ...fleet, queuedJobs: 100_000 }, options)
  expect(behind.pairsPerSecondNeeded).toBeCloseTo(2 * alone.pairsPerSecondNeeded, 6)
  expect(behind.secondsByLiveWorkers).toBeCloseTo(2 * alone.secondsByLiveWorkers, 6)
  expect(planFleet(work, { ...fleet, liveWorkers: 0 }, options).secondsByLiveWorkers).toBe(Number.POSITIVE_INFINITY)
})

it('keeps Redis within what is kept: no results longer than their time, no more scores than their bound', () => {
  const fast = { ...work, seconds: 600 }
  const fleet = { tokensPerSecond: 2e7, ...idle }
  const bytes = (more: object) => planFleet(fast, fleet, { ...options, ...more }).redis.bytes
  expect(bytes({ resultTtlMs: 1000 }).results).toBeLessThan(bytes({}).results)
  expect(bytes({ scoreCacheTtlMs: 0 }).scores).toBe(0)
  expect(bytes({ sharedScoreCacheEntries: 1000 }).scores).toBeLessThan(100_000)
  expect(bytes({ maxWindowRequests: 10 }).waiting).toBeLessThan(10 * (100 * 900 + 2000))
  expect(bytes({ maxWindowBytes: 1_000_000 }).waiting).toBe(1_000_000)
})

it('names shards and producers where one is not enough, and a simulated fleet of that size reaches the speed', () => {
  const tokensPerSecond = 2_000_000
  const wish = { ...work, pairs: 1e9, seconds: 3600 }
  const { workers, redis, producers, pairsPerSecondOfWorker, requestsPerSecond } = planFleet(
    wish,
    { tokensPerSecond, ...idle },
    options,
  )
  expect(redis.shards).toBeGreaterThan(1)
  expect(producers).toBeGreaterThan(1)
  const times = {
    producer: costOf(PRODUCER_COST, 100),
    redis: costOf(REDIS_COST, 100),
    host: 0.5e-3,
    pair: 2 / pairsPerSecondOfWorker,
    network: 1e-4,
  }
  const window = Math.ceil((16 * workers) / producers)
  const simulate = (shards: number) =>
    simulateFleet({ workers, shards, producers, sessionsPerWorker: 2, pairsPerCall: 32, requestsInHand: 8 }, times, {
      requests: Math.ceil(requestsPerSecond * 5),
      pairsPerRequest: 100,
      window,
    })
  expect(simulate(redis.shards).pairsPerSecond).toBeGreaterThan(wish.pairs / wish.seconds)
  // One Redis is the limit then, whatever the workers could.
  expect(simulate(1).pairsPerSecond).toBeLessThan(100 / times.redis)
  expect(simulate(1).busy.redis).toBeGreaterThan(0.95)
})
