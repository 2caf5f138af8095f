/**
 * Depth, age and drain of a fleet's queues, and how its requests ended, read from Redis when somebody scrapes: a few commands
 * a pool, whatever the jobs hold and however many there are.
 */
import type { Redis } from 'ioredis'
import { Counter, Gauge, type Registry } from 'prom-client'
import type { Keys } from '../shared/protocol/keys.js'
import { LANES, type Lane, queueName } from '../shared/protocol/lanes.js'
import { needsOf, serves } from '../shared/protocol/pool.js'
import type { WorkerInfo } from '../shared/protocol/worker-info.js'
import { WorkerRegistry } from '../shared/redis/worker-registry.js'

const STATES = ['waiting', 'prioritized', 'active', 'delayed', 'failed'] as const
type JobCounts = Readonly<Record<(typeof STATES)[number], number>>

/** One lane of a pool as it stands. */
export interface QueueState {
  readonly queue: string
  readonly pool: string
  readonly model: string
  readonly lane: Lane
  readonly jobs: JobCounts
  /** Of the next waiting job, or the next of those with a priority; 0 where none waits. */
  readonly oldestWaitSeconds: number
  /** Jobs that its live workers ended a second, by their last heartbeat. */
  readonly jobsPerSecond: number
  /** Infinity where jobs wait and nobody ends any. */
  readonly secondsToDrain: number
  /** Live workers that serve it. */
  readonly workers: number
}

/** Every lane of every pool that requests were noted for or that a live worker takes jobs of, by one look. */
export async function queueStates(redis: Redis, keys: Keys, workers: readonly WorkerInfo[]): Promise<QueueState[]> {
  const { prefix, queue } = keys
  const served = workers.flatMap((worker) => worker.pools.map(({ name }) => name))
  const pools = [...new Set([...(await redis.hkeys(keys.pools)), ...served])].sort()
  const lanes = pools.flatMap((pool) => LANES.map((lane) => ({ pool, lane, name: queueName(queue, pool, lane) })))
  const reading = redis.pipeline().time()
  for (const { name } of lanes) {
    const key = `${prefix}:${name}`
    reading.llen(`${key}:wait`).zcard(`${key}:prioritized`).llen(`${key}:active`).zcard(`${key}:delayed`)
    reading.zcard(`${key}:failed`).lindex(`${key}:wait`, '-1').zrange(`${key}:prioritized`, '0', '0')
  }
  const [time, ...replies] = await repliesOf(reading)
  const [seconds = 0, micros = 0] = (time as string[]).map(Number)
  const now = seconds * 1000 + micros / 1000
  const perLane = lanes.map((lane, i) => {
    const [waiting, prioritized, active, delayed, failed, next, first] = replies.slice(7 * i, 7 * i + 7)
    const heads = [next, ...((first as string[] | undefined) ?? [])].filter((id) => typeof id === 'string')
    const counts = { waiting, prioritized, active, delayed, failed } as unknown as JobCounts
    return { ...lane, counts, heads }
  })
  const dating = redis.pipeline()
  for (const { name, heads } of perLane) for (const id of heads) dating.hget(`${prefix}:${name}:${id}`, 'timestamp')
  const dates = (await repliesOf(dating)).values()
  return perLane.map(({ pool, lane, name, counts, heads }) => {
    const waits = heads.map(() => now - Number(dates.next().value ?? now))
    const serving = workers.filter((worker) => serves(worker, pool))
    const rates = serving.flatMap((worker) => worker.pools.filter((served) => served.name === pool))
    const jobsPerSecond = rates.reduce((sum, served) => sum + served.jobsPerSecond, 0)
    const depth = counts.waiting + counts.prioritized + counts.delayed + counts.active
    return {
      queue: name,
      pool,
      model: needsOf(pool).model,
      lane,
      jobs: counts,
      oldestWaitSeconds: Math.max(0, ...waits) / 1000,
      jobsPerSecond,
      secondsToDrain: depth === 0 ? 0 : depth / jobsPerSecond,
      workers: serving.length,
    }
  })
}

/**
 * Registers the metrics of a fleet. Of all processes on it only one should report them, or sums over instances count them
 * several times: `reports` says whether this one does, asked at each scrape. Where Redis does not answer, they are left out.
 */
export function collectQueues(registry: Registry, redis: Redis, keys: Keys, reports: () => boolean): void {
  const registryOfWorkers = new WorkerRegistry(redis, keys)
  let looking: Promise<void> | undefined
  // Whichever is collected first looks for all of them.
  const collect = () => {
    looking ??= look().finally(() => {
      looking = undefined
    })
    return looking
  }
  const ofLane = ['queue', 'model', 'lane'] as const
  const common = { registers: [registry], collect }
  const jobs = new Gauge({
    name: 'rankmill_queue_jobs',
    help: 'Jobs in the queue, by state',
    labelNames: [...ofLane, 'state'],
    ...common,
  })
  const oldestWait = new Gauge({
    name: 'rankmill_queue_oldest_wait_seconds',
    help: 'How long the next waiting job, or the next of those with a priority, has waited',
    labelNames: ofLane,
    ...common,
  })
  const timeToDrain = new Gauge({
    name: 'rankmill_queue_time_to_drain_seconds',
    help: 'Jobs in the queue by those that its workers end a second; infinite where nobody ends any',
    labelNames: ofLane,
    ...common,
  })
  const workers = new Gauge({
    name: 'rankmill_workers',
    help: 'Live workers, by a model that they serve',
    labelNames: ['model'],
    ...common,
  })
  const requests = new Counter({
    name: 'rankmill_requests_total',
    help: 'Requests that ended, each once whoever brought it about, by outcome (completed, or the code of the error)',
    labelNames: ['model', 'lane', 'outcome'],
    ...common,
  })
  const failures = new Counter({
    name: 'rankmill_failures_total',
    help: 'Requests that ended with an error, by its code',
    labelNames: ['code', 'model', 'lane'],
    ...common,
  })

  const look = async () => {
    for (const metric of [jobs, oldestWait, timeToDrain, workers, requests, failures]) metric.reset()
    if (!reports()) return
    const infos = await registryOfWorkers.workers().catch(() => [])
    const states = await queueStates(redis, keys, infos).catch(() => [])
    const ends = await redis.hgetall(keys.ends).catch(() => ({}))
    for (const { queue, model, lane, jobs: counts, oldestWaitSeconds, secondsToDrain } of states) {
      for (const state of STATES) jobs.set({ queue, model, lane, state }, counts[state])
      oldestWait.set({ queue, model, lane }, oldestWaitSeconds)
      timeToDrain.set({ queue, model, lane }, secondsToDrain)
    }
    for (const model of new Set([...infos.flatMap((info) => info.models), ...states.map((state) => state.model)])) {
      workers.set({ model }, infos.filter((info) => info.models.includes(model)).length)
    }
    for (const [field, count] of Object.entries<string>(ends)) {
      const [pool = '', lane = '', outcome = ''] = field.split('|')
      const { model } = needsOf(pool)
      requests.inc({ model, lane, outcome }, Number(count))
      if (outcome !== 'completed') failures.inc({ code: outcome, model, lane }, Number(count))
    }
  }
}

async function repliesOf(pipeline: ReturnType<Redis['pipeline']>): Promise<unknown[]> {
  if (pipeline.length === 0) return []
  return ((await pipeline.exec()) ?? []).map(([error, reply]) => {
    if (error) throw error
    return reply
  })
}
