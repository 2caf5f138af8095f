/**
 * Depth, age and drain of a fleet's queues, and how its requests ended, read from Redis when somebody scrapes: a few commands
 * a pool, whatever the jobs hold and however many there are.
 */
import type { Redis } from 'ioredis'
import { Counter, Gauge, type Registry } from 'prom-client'
import { RankmillError } from '../shared/errors.js'
import { LANES, type Lane, queueName } from '../shared/protocol/lanes.js'
import { needsOf, serves } from '../shared/protocol/pool.js'
import { mergeWorkers, type WorkerInfo } from '../shared/protocol/worker-info.js'
import { reaching } from '../shared/redis/connection.js'
import type { Shard } from '../shared/redis/shards.js'
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

/** One of a fleet's shards as it stands. */
export interface ShardState {
  readonly shard: Shard
  readonly queues: readonly QueueState[]
  readonly workers: readonly WorkerInfo[]
}

/** One that does not answer. */
export interface AwayShard {
  readonly index: number
  readonly prefix: string
  readonly error: RankmillError
}

/** A fleet as it stands: its queues, those of the same name in all shards that answer added up. */
export interface FleetState {
  readonly queues: readonly QueueState[]
  readonly workers: readonly WorkerInfo[]
  readonly shards: readonly ShardState[]
  /** What is in these is in none of the numbers. */
  readonly away: readonly AwayShard[]
}

/** @throws RankmillError of Redis where no shard answers */
export async function fleetState(shards: readonly Shard[]): Promise<FleetState> {
  const told = await Promise.allSettled(
    shards.map((shard) =>
      reaching(async (): Promise<ShardState> => {
        const workers = await new WorkerRegistry(shard.redis, shard.keys).workers()
        return { shard, workers, queues: await queueStates(shard, workers) }
      }),
    ),
  )
  const seen = told.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  const away = told.flatMap((one, i) => {
    const shard = shards[i]
    if (one.status === 'fulfilled' || !shard) return []
    return [{ index: shard.index, prefix: shard.keys.prefix, error: RankmillError.from(one.reason) }]
  })
  if (seen.length === 0 && away[0]) throw away[0].error
  return {
    queues: addedUp(seen.flatMap(({ queues }) => queues)),
    workers: mergeWorkers(seen.map(({ workers }) => workers)),
    shards: seen,
    away,
  }
}

function addedUp(states: readonly QueueState[]): QueueState[] {
  const byName = new Map<string, QueueState>()
  for (const state of states) {
    const { queue } = state
    const before = byName.get(queue)
    byName.set(queue, before ? together(before, state) : state)
  }
  return [...byName.values()]
}

function together(a: QueueState, b: QueueState): QueueState {
  const jobs = Object.fromEntries(STATES.map((state) => [state, a.jobs[state] + b.jobs[state]])) as JobCounts
  const jobsPerSecond = a.jobsPerSecond + b.jobsPerSecond
  return {
    ...a,
    jobs,
    oldestWaitSeconds: Math.max(a.oldestWaitSeconds, b.oldestWaitSeconds),
    jobsPerSecond,
    secondsToDrain: secondsFor(jobs, jobsPerSecond),
    workers: Math.max(a.workers, b.workers),
  }
}

function secondsFor(jobs: JobCounts, jobsPerSecond: number): number {
  const depth = jobs.waiting + jobs.prioritized + jobs.delayed + jobs.active
  return depth === 0 ? 0 : depth / jobsPerSecond
}

/** Every lane of every pool that requests were noted for or that a live worker takes jobs of, by one look. */
async function queueStates({ redis, keys }: Shard, workers: readonly WorkerInfo[]): Promise<QueueState[]> {
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
    return {
      queue: name,
      pool,
      model: needsOf(pool).model,
      lane,
      jobs: counts,
      oldestWaitSeconds: Math.max(0, ...waits) / 1000,
      jobsPerSecond,
      secondsToDrain: secondsFor(counts, jobsPerSecond),
      workers: serving.length,
    }
  })
}

/**
 * Registers the metrics of a fleet. Of all processes on it only one should report them, or sums over instances count them
 * several times: `reports` says whether this one does, for each shard, asked at each scrape. Where a Redis does not answer, what
 * is in it is left out. Of a fleet of several shards the metrics carry the label `shard`.
 */
export function collectQueues(
  registry: Registry,
  fleet: { readonly all: readonly Shard[] },
  reports: (shard: Shard) => boolean,
): void {
  let looking: Promise<void> | undefined
  // Whichever is collected first looks for all of them.
  const collect = () => {
    looking ??= look().finally(() => {
      looking = undefined
    })
    return looking
  }
  const ofLane = ['queue', 'model', 'lane', 'shard'] as const
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
    labelNames: ['model', 'lane', 'outcome', 'shard'],
    ...common,
  })
  const failures = new Counter({
    name: 'rankmill_failures_total',
    help: 'Requests that ended with an error, by its code',
    labelNames: ['code', 'model', 'lane', 'shard'],
    ...common,
  })

  const look = async () => {
    const shards = fleet.all
    for (const metric of [jobs, oldestWait, timeToDrain, workers, requests, failures]) metric.reset()
    const seen = await Promise.all(shards.filter(reports).map(seenIn))
    for (const one of seen) tell(one, shards.length === 1)
    // A worker is in every shard: who reports the first one has seen them.
    if (!shards.slice(0, 1).every(reports)) return
    const infos = mergeWorkers(seen.map((one) => one.infos))
    const models = seen.flatMap(({ states }) => states.map(({ model }) => model))
    for (const model of new Set([...infos.flatMap((info) => info.models), ...models])) {
      workers.set({ model }, infos.filter((info) => info.models.includes(model)).length)
    }
  }

  const tell = ({ index, states, ends }: Awaited<ReturnType<typeof seenIn>>, isOne: boolean) => {
    const shard = isOne ? {} : { shard: String(index) }
    for (const { queue, model, lane, jobs: counts, oldestWaitSeconds, secondsToDrain } of states) {
      const labels = { queue, model, lane, ...shard }
      for (const state of STATES) jobs.set({ ...labels, state }, counts[state])
      oldestWait.set(labels, oldestWaitSeconds)
      timeToDrain.set(labels, secondsToDrain)
    }
    for (const [field, count] of Object.entries<string>(ends)) {
      const [pool = '', lane = '', outcome = ''] = field.split('|')
      const { model } = needsOf(pool)
      requests.inc({ model, lane, outcome, ...shard }, Number(count))
      if (outcome !== 'completed') failures.inc({ code: outcome, model, lane, ...shard }, Number(count))
    }
  }
}

/** What a scrape reads of a shard; empty where its Redis does not answer. */
async function seenIn(shard: Shard) {
  const { redis, keys, index } = shard
  const infos = await new WorkerRegistry(redis, keys).workers().catch(() => [])
  const states = await queueStates(shard, infos).catch(() => [])
  const ends: Record<string, string> = await redis.hgetall(keys.ends).catch(() => ({}))
  return { index, infos, states, ends }
}

async function repliesOf(pipeline: ReturnType<Redis['pipeline']>): Promise<unknown[]> {
  if (pipeline.length === 0) return []
  return ((await pipeline.exec()) ?? []).map(([error, reply]) => {
    if (error) throw error
    return reply
  })
}
