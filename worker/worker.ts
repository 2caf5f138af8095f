/** A worker process's heart: what it is made of, how it starts, and how it stops. */
import { randomUUID } from 'node:crypto'
import { WorkerMetrics } from '../monitoring/metrics.js'
import { collectQueues } from '../monitoring/queue-collector.js'
import { type MonitoringServer, serveMonitoring } from '../monitoring/server.js'
import { closeAll } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { LANES, type Lane } from '../shared/protocol/lanes.js'
import { connectWorker } from '../shared/redis/connection.js'
import { Shards } from '../shared/redis/shards.js'
import { PairBudget } from './batching/pair-budget.js'
import { CorpusFolders } from './pipeline/corpus-folders.js'
import { EmbeddingCache } from './pipeline/embedding-cache.js'
import { CandidateLoader } from './pipeline/load-candidates.js'
import { ScoreCache } from './pipeline/score-cache.js'
import { ScoreFlights } from './pipeline/score-flights.js'
import type { Stages } from './process-job.js'
import { type ScorerSource, Scorers } from './scorers.js'
import { WorkerShard } from './worker-shard.js'

export interface WorkerParts {
  readonly now?: () => number
  readonly log?: Logger
  /** Takes a free port for metrics where the one that nobody asked for is taken. */
  readonly metricsPortOrNext?: boolean
  /** Told once that the fleet has another number of shards than this worker serves, which is of no use any more. Default: it stops. */
  readonly onOtherSize?: (has: number) => void
}

export class RerankWorker {
  readonly id = randomUUID()
  readonly metrics: WorkerMetrics
  readonly scorers: Scorers
  readonly #options: Options
  readonly #log: Logger
  readonly #now: () => number
  readonly #shards: Shards
  readonly #parts: readonly WorkerShard[]
  readonly #folders: CorpusFolders
  readonly #onOtherSize: (has: number) => void
  #isOtherSize = false
  #server: MonitoringServer | undefined
  #ready = false
  #closing: Promise<void> | undefined

  /** Starts a worker: connects, loads and warms up its default model, then takes jobs. */
  static async start(options: Options, source: ScorerSource, parts: WorkerParts = {}): Promise<RerankWorker> {
    const shards = await Shards.open(options, connectWorker, 'worker')
    const worker = new RerankWorker(
      options,
      source,
      shards,
      parts.now ?? Date.now,
      parts.log ?? makeLogger(options.logLevel, 'rankmill-worker'),
      parts.onOtherSize,
    )
    try {
      await worker.#start(parts.metricsPortOrNext ?? false)
      return worker
    } catch (error) {
      await worker.close(true)
      throw error
    }
  }

  private constructor(
    options: Options,
    source: ScorerSource,
    shards: Shards,
    now: () => number,
    log: Logger,
    onOtherSize: ((has: number) => void) | undefined,
  ) {
    this.#options = options
    this.#onOtherSize = onOtherSize ?? (() => void this.close())
    this.#log = log
    this.#now = now
    this.#shards = shards
    const { corpora, before } = shards
    if (before !== undefined)
      log.warn({ before, shards: shards.all.length }, 'the fleet has another number of shards now')
    this.metrics = new WorkerMetrics(
      () => this.#busyRatio(),
      () => shards.all.every(({ redis }) => redis.status === 'ready'),
    )
    const { metrics } = this
    const embeddings = new EmbeddingCache(shards.all, options, now)
    this.scorers = new Scorers(source, options, embeddings, metrics, log, now)
    const { scorers } = this
    this.#folders = new CorpusFolders(options.corpusRoot)
    const common: Omit<Stages, 'budget'> = {
      loader: new CandidateLoader(corpora, this.#folders, options.corpusCacheBytes, embeddings),
      scorers,
      cache: new ScoreCache(shards.all, options),
      flights: new ScoreFlights(),
      metrics,
      now,
    }
    // A share for each lane: neither can keep the other waiting for memory.
    const share = Math.max(1, Math.floor(options.maxInflightPairs / LANES.length))
    const stages: Readonly<Record<Lane, Stages>> = {
      interactive: { ...common, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
      bulk: { ...common, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
    }
    const startedAt = now()
    this.#parts = shards.all.map((shard) => {
      const metricsUrl = () => this.metricsUrl
      const model = shard === shards.first ? undefined : () => this.#parts[0]?.model ?? ''
      const own = { worker: this.id, shard, options, scorers, stages, corpora, metrics, metricsUrl, model }
      const onOtherSize = (has: number) => this.#otherSize(has)
      return new WorkerShard({ ...own, onOtherSize, startedAt, log, now })
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
    if (force) this.#abortAll()
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #start(orNext: boolean): Promise<void> {
    const { metricsHost, metricsPort, device } = this.#options
    collectQueues(this.metrics.registry, this.#shards, ({ index }) => this.#parts[index]?.isReporter ?? false)
    // Processes and threads of its own load the model meanwhile; what becomes of it is looked at below.
    const loading = this.scorers.get(null, 'auto')
    loading.catch(() => undefined)
    this.#server = await serveMonitoring(
      {
        contentType: this.metrics.registry.contentType,
        metrics: () => this.metrics.registry.metrics(),
        alive: () => this.#alive(),
        ready: () => ({
          ok: this.#ready && !this.#isOtherSize && this.#unheard() === undefined,
          checks: { redis: this.#unheard() ?? 'ready', model: this.#ready ? 'loaded' : 'loading' },
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
    // The first one before the others: it says what requests mean that name no model.
    const [first, ...others] = this.#parts
    await first?.start()
    await Promise.all(others.map((part) => part.start()))
    this.#ready = true
  }

  #otherSize(has: number): void {
    if (this.#isOtherSize || this.#closing) return
    this.#isOtherSize = true
    this.#log.warn({ serves: this.#parts.length, shards: has }, 'the fleet has another number of shards now')
    this.#onOtherSize(has)
  }

  /** What is wrong with the way to some shard. */
  #unheard(): string | undefined {
    const part = this.#parts.find(({ isHeard, shard }) => !isHeard || shard.redis.status !== 'ready')
    if (!part) return undefined
    const { redis, index } = part.shard
    const state = part.isHeard ? redis.status : 'not answering'
    return this.#parts.length === 1 ? state : `shard ${index}: ${state}`
  }

  #abortAll(): void {
    for (const part of this.#parts) part.abortAll()
  }

  async #close(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.finish(this.#options.drainTimeoutMs)))
    const leaving = this.#parts.map(({ leaving }) => leaving)
    const failed = [
      ...(await Promise.all(leaving.map((steps) => closeAll(steps)))).flat(),
      ...(await closeAll([
        { name: 'corpora', close: () => this.#folders.close() },
        { name: 'models', close: () => this.scorers.close() },
        { name: 'metrics server', close: () => this.#server?.close() },
        { name: 'redis', close: () => this.#shards.close() },
      ])),
    ]
    for (const { name, error } of failed) this.#log.warn({ step: name, err: error }, 'closing')
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
    return {
      ok: stuck.length === 0,
      checks: { inference, jobs: String(this.#parts.reduce((sum, { jobs }) => sum + jobs, 0)) },
    }
  }
}
