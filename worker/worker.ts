/** A worker process's heart: what it is made of, how it starts, and how it stops. */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import { WorkerMetrics } from '../monitoring/metrics.js'
import { collectQueues } from '../monitoring/queue-collector.js'
import { type MonitoringServer, serveMonitoring } from '../monitoring/server.js'
import { Corpora } from '../shared/corpus/corpora.js'
import { closeAll, within } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { type Keys, keysOf } from '../shared/protocol/keys.js'
import { LANES, type Lane } from '../shared/protocol/lanes.js'
import { needsOf, serves } from '../shared/protocol/pool.js'
import { Caretaker } from '../shared/redis/caretaker.js'
import { connectWorker, openSubscriber } from '../shared/redis/connection.js'
import { OutageWatch } from '../shared/redis/outage-watch.js'
import { PoolQueues } from '../shared/redis/pool-queues.js'
import { RequestLife } from '../shared/redis/request-life.js'
import { WorkerRegistry } from '../shared/redis/worker-registry.js'
import type { Load } from './batching/appetite.js'
import { PairBudget } from './batching/pair-budget.js'
import { JobHands } from './job-hands.js'
import { JobPools } from './job-pools.js'
import { CorpusFolders } from './pipeline/corpus-folders.js'
import { EmbeddingCache } from './pipeline/embedding-cache.js'
import { CandidateLoader } from './pipeline/load-candidates.js'
import { ScoreCache } from './pipeline/score-cache.js'
import { ScoreFlights } from './pipeline/score-flights.js'
import { Presence } from './presence.js'
import type { Stages } from './process-job.js'
import { type ScorerSource, Scorers } from './scorers.js'

/** For running jobs to go back to the queue, once they were told to. */
const GIVE_BACK_MS = 3000

export class RerankWorker {
  readonly id = randomUUID()
  readonly metrics: WorkerMetrics
  readonly scorers: Scorers
  readonly #options: Options
  readonly #log: Logger
  readonly #now: () => number
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #queues: PoolQueues
  readonly #pools: JobPools
  readonly #hands: JobHands
  readonly #presence: Presence
  readonly #caretaker: Caretaker
  readonly #folders: CorpusFolders
  #subscriber: Redis | undefined
  #server: MonitoringServer | undefined
  #ready = false
  #closing: Promise<void> | undefined

  /** Starts a worker: connects, loads and warms up its default model, then takes jobs. */
  static async start(
    options: Options,
    source: ScorerSource,
    parts: { now?: () => number; log?: Logger; metricsPortOrNext?: boolean } = {},
  ): Promise<RerankWorker> {
    const redis = await connectWorker(options)
    const worker = new RerankWorker(
      options,
      source,
      redis,
      parts.now ?? Date.now,
      parts.log ?? makeLogger(options.logLevel, 'rankmill-worker'),
    )
    try {
      await worker.#start(parts.metricsPortOrNext ?? false)
      return worker
    } catch (error) {
      await worker.close(true)
      throw error
    }
  }

  private constructor(options: Options, source: ScorerSource, redis: Redis, now: () => number, log: Logger) {
    this.#options = options
    this.#log = log
    this.#now = now
    this.#redis = redis
    this.#keys = keysOf(options.prefix, options.queue)
    const life = new RequestLife(redis, this.#keys)
    const registry = new WorkerRegistry(redis, this.#keys)
    const corpora = new Corpora(redis, this.#keys)
    this.metrics = new WorkerMetrics(
      () => this.#busyRatio(),
      () => redis.status === 'ready',
    )
    const embeddings = new EmbeddingCache(redis, this.#keys, options, now)
    this.scorers = new Scorers(source, options, embeddings, this.metrics, log, now)
    this.#folders = new CorpusFolders(options.corpusRoot)
    const stages: Omit<Stages, 'budget'> = {
      loader: new CandidateLoader(corpora, this.#folders, options.corpusCacheBytes, embeddings),
      scorers: this.scorers,
      cache: new ScoreCache(redis, this.#keys, options),
      flights: new ScoreFlights(),
      metrics: this.metrics,
      now,
    }
    // A share for each lane: neither can keep the other waiting for memory.
    const share = Math.max(1, Math.floor(options.maxInflightPairs / LANES.length))
    const ofLanes: Readonly<Record<Lane, Stages>> = {
      interactive: { ...stages, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
      bulk: { ...stages, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
    }
    const outage = new OutageWatch(redis, (line) => log.info(line))
    const warn = (error: Error) => outage.report(() => log.warn({ err: error.message }, 'queue connection'))
    const queues = new PoolQueues(redis, this.#keys, warn)
    const worker = this.id
    const { metrics } = this
    this.#queues = queues
    this.#hands = new JobHands({
      ...{ worker, life, registry, queues, corpora, metrics, stages: ofLanes, log, now },
      ttlMs: [options.requestTtlMs, options.resultTtlMs],
    })
    this.#pools = new JobPools(redis, options, this.scorers.names, {
      take: (job, token, pool, lane) => this.#hands.take(job, token, pool, lane),
      // What is missed here is found by who looks after the others' requests.
      completed: (job) => void this.#hands.completed(job, job.queueName).catch(() => undefined),
      failed: (job, error) => void this.#hands.failed(job, error).catch(() => undefined),
      error: warn,
      load: (pool) => this.#load(pool),
      serves: (pool) => serves({ models: this.scorers.names, filters: this.scorers.filterNames }, pool),
    })
    this.#caretaker = new Caretaker(this.id, redis, this.#keys, options, metrics, log)
    const startedAt = now()
    const { scorers } = this
    this.#presence = new Presence({
      ...{ id: this.id, startedAt, redis, registry, queues, scorers, log },
      ...{ caretaker: this.#caretaker, pools: this.#pools, metricsUrl: () => this.metricsUrl },
    })
  }

  /** http://host:port of /metrics, /healthz and /readyz. */
  get metricsUrl(): string {
    return this.#server?.url ?? ''
  }

  /**
   * Stops: takes no new jobs, lets running ones finish for `drainTimeoutMs`, then gives them back to the queue.
   *
   * @param force gives running jobs back at once
   */
  close(force = false): Promise<void> {
    this.#ready = false
    if (force) this.#hands.abortAll()
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #start(orNext: boolean): Promise<void> {
    const { metricsHost, metricsPort, device } = this.#options
    collectQueues(this.metrics.registry, this.#redis, this.#keys, () => this.#presence.isReporter)
    // Processes and threads of its own load the model meanwhile; what becomes of it is looked at below.
    const loading = this.scorers.get(null, 'auto')
    loading.catch(() => undefined)
    this.#server = await serveMonitoring(
      {
        contentType: this.metrics.registry.contentType,
        metrics: () => this.metrics.registry.metrics(),
        alive: () => this.#alive(),
        ready: () => ({
          ok: this.#ready && this.#presence.isHeard,
          checks: {
            redis: this.#presence.isHeard ? this.#redis.status : 'not answering',
            model: this.#ready ? 'loaded' : 'loading',
          },
        }),
      },
      metricsHost,
      { port: metricsPort, orNext },
    ).catch(async (error) => {
      // What is being started can be ended only when it has.
      await loading.catch(() => undefined)
      throw error
    })
    this.#log.info({ url: this.#server.url, device }, 'metrics and health')
    await loading
    await this.#listen()
    await this.#pools.run()
    await this.#presence.start()
    this.#ready = true
  }

  async #close(): Promise<void> {
    // First of all it takes no more, or it would take again what it gives back.
    const drained = this.#pools.close()
    await within(this.#presence.drain(), 1000).catch(() => false)
    // Without Redis no job can be finished or given back: it comes back by itself when its lock runs out.
    const drainMs = this.#redis.status === 'ready' ? this.#options.drainTimeoutMs : 0
    if (!(await within(drained, drainMs))) {
      this.#log.warn({ jobs: this.#hands.size }, 'not drained in time: running jobs go back to the queue')
      this.#hands.abortAll()
      await within(drained, GIVE_BACK_MS)
    }
    const failed = await closeAll([
      { name: 'caretaker', close: () => within(this.#caretaker.close(), 1000) },
      { name: 'heartbeat', close: () => within(this.#presence.leave(), 1000) },
      { name: 'corpora', close: () => this.#folders.close() },
      { name: 'models', close: () => this.scorers.close() },
      { name: 'metrics server', close: () => this.#server?.close() },
      { name: 'subscriber', close: () => this.#subscriber?.disconnect() },
      { name: 'queues', close: () => within(this.#queues.close(), 1000) },
      { name: 'redis', close: () => this.#redis.disconnect() },
    ])
    for (const { name, error } of failed) this.#log.warn({ step: name, err: error }, 'closing')
  }

  /** To cancellations, and to requests for pools that nobody watches without need. */
  async #listen(): Promise<void> {
    const { cancelChannel, bellChannel } = this.#keys
    this.#subscriber = openSubscriber(this.#redis, 'rankmill-listener')
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
    for (const { batcher, engine, name } of this.scorers.loaded) {
      if (name !== model) continue
      pairsWaiting += batcher.pairsWaiting
      roundPairs += engine.sessions * engine.shape.batchPairs
    }
    return { pairsWaiting, roundPairs }
  }

  #busyRatio(): number {
    const ratios = [...this.scorers.loaded].map((scorer) => scorer.engine.busyRatio())
    return ratios.length === 0 ? 0 : ratios.reduce((a, b) => a + b, 0) / ratios.length
  }

  #alive(): { ok: boolean; checks: Record<string, string> } {
    const { livenessMs } = this.#options
    const stuck = [...this.scorers.running].filter(({ batcher }) => this.#now() - batcher.lastProgressAt > livenessMs)
    const inference =
      stuck.length === 0 ? 'progressing' : `no batch of ${stuck[0]?.model.name} finished for ${livenessMs} ms`
    return { ok: stuck.length === 0, checks: { inference, jobs: String(this.#hands.size) } }
  }
}
