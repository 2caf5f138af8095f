/** The BullMQ queues of a fleet's pools over one connection, opened when first needed. */
import { Job, Queue, UnrecoverableError } from 'bullmq'
import type { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import type { RerankJob } from '../protocol/job.js'
import { jobIdOf, type Keys, partOfJob } from '../protocol/keys.js'
import { LANES, type Lane, queueName } from '../protocol/lanes.js'
import { needsOf } from '../protocol/pool.js'
import type { HeldJob, Place } from './request-life.js'

/** Queues kept open: they cost memory and no connection of their own. */
const OPEN_QUEUES = 256
/** Jobs removed together: bounds what is under way on the connection. */
const REMOVE_CHUNK = 128

/** Unless a request was noted for it meanwhile. KEYS: pools, what BullMQ keeps of an empty queue; ARGV: pool, when it was noted */
const FORGET_POOL = `
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('DEL', unpack(KEYS, 2))
`

type Commands = { rankmillForgetPool(...args: string[]): Promise<unknown> }

export interface PoolLane {
  readonly pool: string
  readonly lane: Lane
  readonly queue: Queue<RerankJob>
}

export class PoolQueues {
  readonly #redis: Redis & Commands
  readonly #keys: Keys
  readonly #onError: (error: Error) => void
  readonly #open = new LRUCache<string, Queue<RerankJob>>({
    max: OPEN_QUEUES,
    dispose: (queue) => void queue.close().catch(() => undefined),
  })

  /** Connection errors are told by `onError`; commands report theirs themselves. */
  constructor(redis: Redis, keys: Keys, onError: (error: Error) => void = () => undefined) {
    redis.defineCommand('rankmillForgetPool', { numberOfKeys: 11, lua: FORGET_POOL })
    this.#redis = redis as Redis & Commands
    this.#keys = keys
    this.#onError = onError
  }

  of(pool: string, lane: Lane): Queue<RerankJob> {
    return this.named(queueName(this.#keys.queue, pool, lane))
  }

  named(name: string): Queue<RerankJob> {
    let queue = this.#open.get(name)
    if (!queue) {
      queue = new Queue<RerankJob>(name, { connection: this.#redis, prefix: this.#keys.prefix, skipVersionCheck: true })
      queue.on('error', this.#onError)
      this.#open.set(name, queue)
    }
    return queue
  }

  /** Every pool that requests were noted for, or that a worker has served. */
  async pools(): Promise<string[]> {
    return (await this.#redis.hkeys(this.#keys.pools)).sort()
  }

  /** Of some pools those that have a job to be done or in some worker's hands. */
  async withJobs(pools: readonly string[]): Promise<string[]> {
    if (pools.length === 0) return []
    const reading = this.#redis.pipeline()
    for (const pool of pools) {
      for (const lane of LANES) {
        const name = `${this.#keys.prefix}:${queueName(this.#keys.queue, pool, lane)}`
        reading.exists(...['wait', 'prioritized', 'delayed', 'active', 'paused'].map((state) => `${name}:${state}`))
      }
    }
    const counts = ((await reading.exec()) ?? []).map(([error, count]) => {
      if (error) throw error
      return Number(count)
    })
    const each = LANES.length
    return pools.filter((_, i) => counts.slice(each * i, each * (i + 1)).some((count) => count > 0))
  }

  /** Forgets pools that no request was noted for since `before`, in ms since 1970, and that have no jobs. */
  async forgetUnused(before: number, isServed: (pool: string) => boolean): Promise<void> {
    const noted = Object.entries(await this.#redis.hgetall(this.#keys.pools))
    const old = noted.filter(([pool, at]) => Number(at) < before && !isServed(pool)).slice(0, OPEN_QUEUES)
    const busy = new Set(await this.withJobs(old.map(([pool]) => pool)))
    for (const [pool, at] of old) {
      if (busy.has(pool)) continue
      const names = LANES.map((lane) => `${this.#keys.prefix}:${queueName(this.#keys.queue, pool, lane)}`)
      const own = names.flatMap((name) => ['meta', 'events', 'marker', 'id', 'pc'].map((what) => `${name}:${what}`))
      await this.#redis.rankmillForgetPool(this.#keys.pools, ...own, pool, at)
    }
  }

  /** The queues of all pools. */
  async all(): Promise<PoolLane[]> {
    return (await this.pools()).flatMap((pool) => LANES.map((lane) => ({ pool, lane, queue: this.of(pool, lane) })))
  }

  /** Takes jobs of a request out of the queue; those that run stay, and are refused where they end. */
  async remove(id: string, { generation, pool, lane, parts }: Place): Promise<void> {
    const queue = this.of(pool, lane)
    for (let first = 0; first < parts; first += REMOVE_CHUNK) {
      const chunk = Array.from({ length: Math.min(REMOVE_CHUNK, parts - first) }, (_, i) => first + i)
      await Promise.all(chunk.map((part) => queue.remove(jobIdOf(id, generation, part)).catch(() => 0)))
    }
  }

  /**
   * The parts of a request whose jobs Redis has lost, of those that were queued. BullMQ ignores an added job whose id it
   * knows, so one that is in none of its lists is taken out first.
   */
  async missing(id: string, { generation, pool, lane, parts }: Place): Promise<number[]> {
    const queue = this.of(pool, lane)
    const missing: number[] = []
    for (let first = 0; first < parts; first += REMOVE_CHUNK) {
      const chunk = Array.from({ length: Math.min(REMOVE_CHUNK, parts - first) }, (_, i) => first + i)
      const states = await Promise.all(chunk.map((part) => queue.getJobState(jobIdOf(id, generation, part))))
      missing.push(...chunk.filter((_, i) => states[i] === 'unknown'))
    }
    await Promise.all(missing.map((part) => queue.remove(jobIdOf(id, generation, part)).catch(() => 0)))
    return missing
  }

  /** Gives back a job that a dead worker held. @returns false where its lock has run out, and BullMQ sees to it */
  async giveBack({ queue, jobId, token }: HeldJob): Promise<boolean> {
    try {
      await this.#handle(queue, jobId).moveToWait(token)
      return true
    } catch {
      return false
    }
  }

  /** Jobs that a dead worker had fetched, those among them that it had not begun. */
  async lockedBy(lockers: readonly string[]): Promise<HeldJob[]> {
    const locked: HeldJob[] = []
    if (lockers.length === 0) return locked
    for (const { queue } of await this.all()) {
      const name = `${this.#keys.prefix}:${queue.name}`
      const active = await this.#redis.lrange(`${name}:active`, 0, -1)
      if (active.length === 0) continue
      const tokens = await this.#redis.mget(active.map((jobId) => `${name}:${jobId}:lock`))
      active.forEach((jobId, i) => {
        const token = tokens[i]
        const part = partOfJob(jobId)
        if (!part || !token || !lockers.some((locker) => token.startsWith(`${locker}:`))) return
        locked.push({ ...part, queue: queue.name, jobId, token })
      })
    }
    return locked
  }

  /** Lets a job that a dead worker held count as failed, with its content, for `rankmill failed`. */
  async fail({ queue, jobId, token }: HeldJob, message: string): Promise<void> {
    await this.#handle(queue, jobId)
      .moveToFailed(new UnrecoverableError(message), token, false)
      .catch(() => undefined)
  }

  /** Puts a finished job back into the queue. */
  async again(
    id: string,
    { generation, pool, lane }: Place,
    part: number,
    from: 'failed' | 'completed',
  ): Promise<void> {
    await this.#handle(queueName(this.#keys.queue, pool, lane), jobIdOf(id, generation, part)).retry(from)
  }

  /**
   * Queues a job again whose content is there and that is in none of BullMQ's lists.
   *
   * @returns false where somebody has it in hand, or it is in a list after all
   */
  async requeue(id: string, { generation, pool, lane }: Place, part: number): Promise<boolean> {
    const queue = this.of(pool, lane)
    const jobId = jobIdOf(id, generation, part)
    const job = await queue.getJob(jobId)
    if (!job || (await queue.getJobState(jobId)) !== 'unknown') return false
    // BullMQ ignores an added job whose id it knows. Should this process die in between, the request ends as lost.
    if ((await queue.remove(jobId).catch(() => 0)) !== 1) return false
    await queue.add(job.name, job.data, { ...job.opts, jobId })
    return true
  }

  /** A delayed job waits no longer. */
  async promote(id: string, { generation, pool, lane }: Place, part: number): Promise<void> {
    const name = queueName(this.#keys.queue, pool, lane)
    // One that is taken meanwhile is not delayed any more.
    await this.#handle(name, jobIdOf(id, generation, part))
      .promote()
      .catch(() => undefined)
  }

  /** Queues the waiting jobs of a request as those of another generation, of another pool. */
  async move(id: string, before: Place, after: Place): Promise<void> {
    const [from, to] = [this.of(before.pool, before.lane), this.of(after.pool, after.lane)]
    const { model } = needsOf(after.pool)
    for (let part = 0; part < before.parts; part++) {
      const job = await from.getJob(jobIdOf(id, before.generation, part))
      if (!job) continue
      const data: RerankJob = { ...job.data, generation: after.generation, model }
      await to.add(job.name, data, { ...job.opts, jobId: jobIdOf(id, after.generation, part) })
      await job.remove()
    }
  }

  async close(): Promise<void> {
    this.#open.clear()
  }

  /** A job by its id alone: what it holds is not read. */
  #handle(queue: string, jobId: string): Job<RerankJob> {
    return new Job<RerankJob>(this.named(queue), 'rerank', {} as RerankJob, {}, jobId)
  }
}
