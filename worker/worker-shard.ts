/** What a worker does in one shard of its fleet: takes its jobs, says there that it lives, and looks after what others left. */
import type { WorkerMetrics } from '../monitoring/metrics.js'
import type { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import { type ClosingStep, within } from '../shared/lifecycle.js'
import type { Logger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import type { Lane } from '../shared/protocol/lanes.js'
import { needsOf, serves } from '../shared/protocol/pool.js'
import { Caretaker } from '../shared/redis/caretaker.js'
import { openSubscriber } from '../shared/redis/connection.js'
import { OutageWatch } from '../shared/redis/outage-watch.js'
import { PoolQueues } from '../shared/redis/pool-queues.js'
import { RequestLife } from '../shared/redis/request-life.js'
import type { Shard } from '../shared/redis/shards.js'
import { WorkerRegistry } from '../shared/redis/worker-registry.js'
import type { Load } from './batching/appetite.js'
import { JobHands } from './job-hands.js'
import { JobPools } from './job-pools.js'
import { Presence } from './presence.js'
import type { Stages } from './process-job.js'
import type { Scorers } from './scorers.js'

/** For running jobs to go back to the queue, once they were told to. */
const GIVE_BACK_MS = 3000

export interface WorkerShardParts {
  readonly worker: string
  readonly shard: Shard
  readonly options: Options
  readonly scorers: Scorers
  readonly stages: Readonly<Record<Lane, Stages>>
  readonly corpora: CorpusShelves
  readonly metrics: WorkerMetrics
  readonly metricsUrl: () => string
  /** What requests mean that name no model, where that is decided in another shard. */
  readonly model: (() => string) | undefined
  /** Told that the fleet has another number of shards. */
  readonly onOtherSize: (has: number) => void
  readonly startedAt: number
  readonly log: Logger
  readonly now: () => number
}

export class WorkerShard {
  readonly shard: Shard
  readonly #scorers: Scorers
  readonly #log: Logger
  readonly #queues: PoolQueues
  readonly #hands: JobHands
  readonly #pools: JobPools
  readonly #presence: Presence
  readonly #caretaker: Caretaker
  #subscriber: ReturnType<typeof openSubscriber> | undefined

  constructor(parts: WorkerShardParts) {
    const { worker, shard, options, scorers, stages, corpora, metrics, log, now } = parts
    const { redis, keys, index, count } = shard
    this.shard = shard
    this.#scorers = scorers
    this.#log = count === 1 ? log : log.child({ shard: index })
    const life = new RequestLife(redis, keys)
    const registry = new WorkerRegistry(redis, keys)
    const outage = new OutageWatch(redis, (line) => this.#log.info(line))
    const warn = (error: Error) =>
      outage.report(error.message, () => this.#log.warn({ err: error.message }, 'queue connection'))
    this.#queues = new PoolQueues(redis, keys, warn)
    this.#hands = new JobHands({
      ...{ worker, life, registry, queues: this.#queues, corpora, metrics, stages, log: this.#log, now },
      ttlMs: [options.requestTtlMs, options.resultTtlMs],
    })
    // What a worker holds does not grow with the shards.
    const concurrency = Math.ceil(options.concurrency / count)
    this.#pools = new JobPools(redis, { ...options, prefix: keys.prefix, concurrency }, scorers.names, {
      take: (job, token, pool, lane) => this.#hands.take(job, token, pool, lane),
      // What is missed here is found by who looks after the others' requests.
      completed: (job) => void this.#hands.completed(job, job.queueName).catch(() => undefined),
      failed: (job, error) => void this.#hands.failed(job, error).catch(() => undefined),
      error: warn,
      load: (pool) => this.#load(pool),
      serves: (pool) => serves({ models: scorers.names, filters: scorers.filterNames }, pool),
    })
    this.#caretaker = new Caretaker(worker, redis, keys, options, metrics, this.#log, undefined, corpora)
    const { startedAt, metricsUrl, model, onOtherSize } = parts
    this.#presence = new Presence({
      ...{ id: worker, startedAt, redis, registry, queues: this.#queues, scorers, log: this.#log, metricsUrl, model },
      ...{ caretaker: this.#caretaker, pools: this.#pools, shards: count, onOtherSize },
    })
  }

  /** Jobs in hand. */
  get jobs(): number {
    return this.#hands.size
  }

  /** Whether Redis hears it. */
  get isHeard(): boolean {
    return this.#presence.isHeard
  }

  /** Of the shard's live workers it is the one that reports what belongs to all of them. */
  get isReporter(): boolean {
    return this.#presence.isReporter
  }

  /** What requests mean here that name no model, by the last heartbeat. */
  get model(): string {
    return this.#presence.model
  }

  async start(): Promise<void> {
    await this.#listen()
    await this.#pools.run()
    await this.#presence.start()
  }

  /** Takes no more jobs, lets those in hand finish for a time, then gives them back. */
  async finish(drainTimeoutMs: number): Promise<void> {
    // First of all it takes no more, or it would take again what it gives back.
    const drained = this.#pools.close()
    await within(this.#presence.drain(), 1000).catch(() => false)
    // Without Redis no job can be finished or given back: it comes back by itself when its lock runs out.
    const drainMs = this.shard.redis.status === 'ready' ? drainTimeoutMs : 0
    if (await within(drained, drainMs)) return
    this.#log.warn({ jobs: this.#hands.size }, 'not drained in time: running jobs go back to the queue')
    this.#hands.abortAll()
    await within(drained, GIVE_BACK_MS)
  }

  /** Jobs in hand go back into the queue. */
  abortAll(): void {
    this.#hands.abortAll()
  }

  /** What is left to close before the connection. */
  get leaving(): ClosingStep[] {
    return [
      { name: 'caretaker', close: () => within(this.#caretaker.close(), 1000) },
      { name: 'heartbeat', close: () => within(this.#presence.leave(), 1000) },
      { name: 'subscriber', close: () => this.#subscriber?.disconnect() },
      { name: 'queues', close: () => within(this.#queues.close(), 1000) },
    ]
  }

  /** To cancellations, and to requests for pools that nobody watches without need. */
  async #listen(): Promise<void> {
    const { cancelChannel, bellChannel } = this.shard.keys
    this.#subscriber = openSubscriber(this.shard.redis, 'rankmill-listener')
    this.#subscriber.on('message', (channel: string, text: string) => {
      if (channel === bellChannel) {
        this.#pools.notice(text).catch((error) => this.#log.warn({ err: error, pool: text }, 'cannot watch a pool'))
        return
      }
      const space = text.indexOf(' ')
      this.#hands.cancel(text.slice(space + 1), Number(text.slice(0, space)))
    })
    await this.#subscriber.subscribe(cancelChannel, bellChannel)
  }

  /** What the batchers of a pool's model hold. */
  #load(pool: string): Load {
    const { model } = needsOf(pool)
    let pairsWaiting = 0
    let roundPairs = 0
    for (const { batcher, engine, name } of this.#scorers.loaded) {
      if (name !== model) continue
      pairsWaiting += batcher.pairsWaiting
      roundPairs += engine.sessions * engine.shape.batchPairs
    }
    return { pairsWaiting, roundPairs }
  }
}
