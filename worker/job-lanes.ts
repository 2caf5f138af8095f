/** What takes jobs out of the queues: a BullMQ worker for each lane, so that bulk work never holds all the slots. */
import { type Job, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import type { Options } from '../shared/options.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { LANES, type Lane, queueName } from '../shared/protocol/lanes.js'
import { Appetite, type Load } from './batching/appetite.js'

export interface JobHandlers {
  /** Runs a job to its end; what it throws goes to BullMQ. */
  readonly take: (job: Job<RerankJob>, token: string, lane: Lane) => Promise<void>
  readonly failed: (job: Job<RerankJob> | undefined, error: Error) => void
  readonly error: (error: Error) => void
  readonly load: () => Load
}

export class JobLanes {
  readonly #workers: ReadonlyMap<Lane, Worker<RerankJob>>
  readonly #appetite: Appetite
  readonly #handlers: JobHandlers
  #bulkHeld = 0

  constructor(redis: Redis, options: Options, handlers: JobHandlers) {
    this.#handlers = handlers
    this.#appetite = new Appetite(options.concurrency)
    this.#workers = new Map(LANES.map((lane) => [lane, this.#worker(lane, redis, options)]))
  }

  /** Bulk jobs that are held at once, as things are. */
  get appetite(): number {
    return this.#appetite.jobs
  }

  /** Begins to take jobs; resolves when the connections stand. */
  async run(): Promise<void> {
    for (const [lane, worker] of this.#workers) {
      worker.run().catch((cause) => this.#handlers.error(new Error(`the ${lane} job loop ended: ${cause}`, { cause })))
    }
    await Promise.all([...this.#workers.values()].map((worker) => worker.waitUntilReady()))
  }

  /** Takes no more jobs; resolves when those in hand have ended. */
  async close(): Promise<void> {
    await Promise.all([...this.#workers.values()].map((worker) => worker.close()))
  }

  #worker(lane: Lane, redis: Redis, options: Options): Worker<RerankJob> {
    const { prefix, queue, concurrency, lockMs, maxStalled } = options
    const { take, failed, error } = this.#handlers
    const process =
      lane === 'bulk'
        ? (job: Job<RerankJob>, token = '') => this.#takeBulk(job, token)
        : (job: Job<RerankJob>, token = '') => take(job, token, lane)
    const worker = new Worker<RerankJob>(queueName(queue, lane), process, {
      connection: redis,
      prefix,
      skipVersionCheck: true,
      autorun: false,
      concurrency: lane === 'bulk' ? this.#appetite.jobs : concurrency,
      lockDuration: lockMs,
      maxStalledCount: maxStalled,
      stalledInterval: lockMs,
    })
    worker.on('error', error)
    worker.on('failed', failed)
    return worker
  }

  async #takeBulk(job: Job<RerankJob>, token: string): Promise<void> {
    this.#bulkHeld++
    try {
      await this.#handlers.take(job, token, 'bulk')
    } finally {
      this.#appetite.ended(this.#bulkHeld--, this.#handlers.load())
      // BullMQ looks at it before it fetches.
      const worker = this.#workers.get('bulk')
      if (worker) worker.concurrency = this.#appetite.jobs
    }
  }
}
