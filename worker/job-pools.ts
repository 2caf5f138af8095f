/**
 * What takes jobs out of the queues: for each pool a BullMQ worker a lane, so that bulk work never holds all the slots. The
 * pools of the models that are served are always watched; those that need more (a number format, other models) from the
 * first request for them on, until they have been idle for a while, so that connections stay few.
 */
import { type Job, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import type { Options } from '../shared/options.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { LANES, type Lane, oldQueueName, queueName } from '../shared/protocol/lanes.js'
import { plainPool } from '../shared/protocol/pool.js'
import { Appetite, type Load } from './batching/appetite.js'

export interface JobHandlers {
  /** Runs a job to its end; what it throws goes to BullMQ. */
  readonly take: (job: Job<RerankJob>, token: string, pool: string, lane: Lane) => Promise<void>
  readonly completed: (job: Job<RerankJob>) => void
  readonly failed: (job: Job<RerankJob> | undefined, error: Error) => void
  readonly error: (error: Error) => void
  readonly load: (pool: string) => Load
  readonly serves: (pool: string) => boolean
}

/** A pool that needs more than a model is let go after so long without a job. */
const IDLE_MS = 60_000

interface Watched {
  readonly workers: ReadonlyMap<Lane, Worker<RerankJob>>
  readonly appetite: Appetite
  readonly isPlain: boolean
  held: number
  bulkHeld: number
  /** Jobs ended since the rate was last asked for. */
  ended: number
  lastTakenAt: number
}

export class JobPools {
  readonly #redis: Redis
  readonly #options: Options
  readonly #handlers: JobHandlers
  readonly #plain: ReadonlySet<string>
  readonly #idleMs: number
  readonly #watched = new Map<string, Watched>()
  readonly #old: Worker<RerankJob>[] = []
  /** Pools that are let go while a job of theirs is still in hand. */
  readonly #leaving = new Set<Promise<unknown>>()
  #isClosing = false

  /** @param models that are served */
  constructor(
    redis: Redis,
    options: Options,
    models: readonly string[],
    handlers: JobHandlers,
    idleMs: number = IDLE_MS,
  ) {
    this.#idleMs = idleMs
    this.#redis = redis
    this.#options = options
    this.#handlers = handlers
    this.#plain = new Set(models.map(plainPool))
  }

  /** Bulk jobs that are held at once, as things are. */
  get appetite(): number {
    return [...this.#watched.values()].reduce((sum, { appetite }) => sum + appetite.jobs, 0)
  }

  /** What BullMQ's locks on its jobs begin with. */
  get lockers(): string[] {
    return [...this.#watched.values()]
      .flatMap(({ workers }) => [...workers.values()])
      .concat(this.#old)
      .map(({ id }) => id)
  }

  /** Pools that jobs are taken of now, and the jobs of each that ended since the last call. */
  take(): { name: string; ended: number }[] {
    return [...this.#watched].map(([name, watched]) => {
      const { ended } = watched
      watched.ended = 0
      return { name, ended }
    })
  }

  /** Begins to take jobs; resolves when the connections stand. */
  async run(): Promise<void> {
    await Promise.all([...this.#plain].map((pool) => this.#watch(pool)))
    await this.#finishOld()
  }

  /** What release 0.1.0 left in its queues is done by the default model. */
  async #finishOld(): Promise<void> {
    const { prefix, queue } = this.#options
    const [pool] = this.#plain
    for (const lane of LANES) {
      const name = oldQueueName(queue, lane)
      if (pool === undefined || (await this.#redis.exists(`${prefix}:${name}:meta`)) === 0) continue
      const worker = this.#worker(name, pool, lane, this.#options.concurrency)
      this.#old.push(worker)
      this.#loop(name, worker)
    }
  }

  #loop(name: string, worker: Worker<RerankJob>): void {
    worker.run().catch((cause) => this.#handlers.error(new Error(`the job loop of ${name} ended: ${cause}`, { cause })))
  }

  /** Of some pools those that are served and not watched. */
  unwatched(pools: readonly string[]): string[] {
    return pools.filter((pool) => !this.#watched.has(pool) && this.#handlers.serves(pool))
  }

  /** Watches pools that have jobs; lets go of those that were idle for long. */
  async follow(pools: readonly string[]): Promise<void> {
    await Promise.all(pools.map((pool) => this.notice(pool)))
    for (const [pool, { isPlain, held, lastTakenAt, workers }] of this.#watched) {
      if (isPlain || held > 0 || performance.now() - lastTakenAt < this.#idleMs) continue
      this.#watched.delete(pool)
      // A job that is taken just now is finished; one that comes is found with the next heartbeat.
      const leaving = Promise.all([...workers.values()].map((worker) => worker.close()))
      this.#leaving.add(leaving)
      leaving.catch(this.#handlers.error).finally(() => this.#leaving.delete(leaving))
    }
  }

  /** A request was noted for a pool. */
  async notice(pool: string): Promise<void> {
    if (!this.#isClosing && !this.#watched.has(pool) && this.#handlers.serves(pool)) await this.#watch(pool)
  }

  /** Takes no more jobs; resolves when those in hand have ended. */
  async close(): Promise<void> {
    this.#isClosing = true
    const workers = [...this.#watched.values()].flatMap((watched) => [...watched.workers.values()]).concat(this.#old)
    await Promise.all([...this.#leaving, ...workers.map((worker) => worker.close())])
  }

  async #watch(pool: string): Promise<void> {
    const appetite = new Appetite(this.#options.concurrency)
    const { queue, concurrency } = this.#options
    const workers = new Map(
      LANES.map((lane) => {
        const most = lane === 'bulk' ? appetite.jobs : concurrency
        return [lane, this.#worker(queueName(queue, pool, lane), pool, lane, most)]
      }),
    )
    const isPlain = this.#plain.has(pool)
    this.#watched.set(pool, {
      ...{ workers, appetite, isPlain, held: 0, bulkHeld: 0, ended: 0 },
      lastTakenAt: performance.now(),
    })
    for (const worker of workers.values()) this.#loop(worker.name, worker)
    await Promise.all([...workers.values()].map((worker) => worker.waitUntilReady()))
  }

  #worker(name: string, pool: string, lane: Lane, concurrency: number): Worker<RerankJob> {
    const { prefix, lockMs, maxStalled } = this.#options
    const { completed, failed, error } = this.#handlers
    const process = (job: Job<RerankJob>, token = '') => this.#take(job, token, pool, lane)
    const worker = new Worker<RerankJob>(name, process, {
      connection: this.#redis,
      prefix,
      skipVersionCheck: true,
      autorun: false,
      concurrency,
      lockDuration: lockMs,
      maxStalledCount: maxStalled,
      stalledInterval: lockMs,
    })
    worker.on('error', error)
    worker.on('completed', completed)
    worker.on('failed', failed)
    return worker
  }

  async #take(job: Job<RerankJob>, token: string, pool: string, lane: Lane): Promise<void> {
    const watched = this.#watched.get(pool)
    if (!watched) return this.#handlers.take(job, token, pool, lane)
    watched.held++
    if (lane === 'bulk') watched.bulkHeld++
    watched.lastTakenAt = performance.now()
    try {
      await this.#handlers.take(job, token, pool, lane)
      watched.ended++
    } finally {
      watched.held--
      watched.lastTakenAt = performance.now()
      if (lane === 'bulk') {
        watched.appetite.ended(watched.bulkHeld--, this.#handlers.load(pool))
        // BullMQ looks at it before it fetches.
        const worker = watched.workers.get('bulk')
        if (worker) worker.concurrency = watched.appetite.jobs
      }
    }
  }
}
