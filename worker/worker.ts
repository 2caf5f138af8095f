/** A worker process's heart: takes jobs from the queue, runs them through the stages, and ends every one of them. */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { DelayedError, type Job, UnrecoverableError, WaitingError } from 'bullmq'
import type { Redis } from 'ioredis'
import { WorkerMetrics } from '../monitoring/metrics.js'
import { collectQueues } from '../monitoring/queue-collector.js'
import { type MonitoringServer, serveMonitoring } from '../monitoring/server.js'
import { Corpora } from '../shared/corpus/corpora.js'
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import { closeAll, within } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { type Keys, keysOf } from '../shared/protocol/keys.js'
import { LANES, type Lane } from '../shared/protocol/lanes.js'
import type { WorkerInfo } from '../shared/protocol/worker-info.js'
import { connectWorker } from '../shared/redis/connection.js'
import { LaneQueues } from '../shared/redis/lane-queues.js'
import { HEARTBEAT_MS, Scripts } from '../shared/redis/scripts.js'
import type { Load } from './batching/appetite.js'
import { PairBudget } from './batching/pair-budget.js'
import { JobLanes } from './job-lanes.js'
import { CorpusFolders } from './pipeline/corpus-folders.js'
import { EmbeddingCache } from './pipeline/embedding-cache.js'
import { CandidateLoader } from './pipeline/load-candidates.js'
import { NewerJob } from './pipeline/read-job.js'
import { ScoreCache } from './pipeline/score-cache.js'
import { ScoreFlights } from './pipeline/score-flights.js'
import { writeError } from './pipeline/write-result.js'
import { processJob, type Stages } from './process-job.js'
import { type ScorerSource, Scorers } from './scorers.js'

/** Bytes of an answer that tell whether it is an error, and which. */
const ANSWER_HEAD = 100

/** For running jobs to go back to the queue, once they were told to. */
const GIVE_BACK_MS = 3000

/** A job of a newer release is offered again after this: some worker will be of that release. */
const NEWER_JOB_MS = 1000

/** Ends that belong to the request's own life, not faults of the job: nothing for `failed ls`. */
const ORDINARY_ENDS: ReadonlySet<ErrorCode> = new Set(['cancelled', 'deadline_exceeded'])

export class RerankWorker {
  readonly id = randomUUID()
  readonly metrics: WorkerMetrics
  readonly scorers: Scorers
  readonly #options: Options
  readonly #log: Logger
  readonly #now: () => number
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #scripts: Scripts
  readonly #queues: LaneQueues
  readonly #lanes: JobLanes
  readonly #stages: Readonly<Record<Lane, Stages>>
  readonly #folders: CorpusFolders
  /** Of the jobs in hand, by request: cancellation ends all parts of a request that run here. */
  readonly #running = new Map<string, Set<AbortController>>()
  readonly #startedAt: number
  #subscriber: Redis | undefined
  #server: MonitoringServer | undefined
  #heartbeat: NodeJS.Timeout | undefined
  #jobsDone = 0
  #jobsDoneBefore = 0
  #isReporter = false
  #ready = false
  #givesBack = false
  #closing: Promise<void> | undefined

  /** Starts a worker: connects, loads and warms up its default model, then takes jobs. */
  static async start(
    options: Options,
    source: ScorerSource,
    parts: { now?: () => number; log?: Logger } = {},
  ): Promise<RerankWorker> {
    const redis = await connectWorker(options.redis)
    const worker = new RerankWorker(
      options,
      source,
      redis,
      parts.now ?? Date.now,
      parts.log ?? makeLogger(options.logLevel, 'rankmill-worker'),
    )
    try {
      await worker.#start()
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
    this.#scripts = new Scripts(redis, this.#keys)
    this.#startedAt = now()
    this.metrics = new WorkerMetrics(
      () => this.#busyRatio(),
      () => redis.status === 'ready',
    )
    const embeddings = new EmbeddingCache(redis, this.#keys, options, now)
    this.scorers = new Scorers(source, options, embeddings, this.metrics, log, now)
    this.#folders = new CorpusFolders(options.corpusRoot)
    const stages: Omit<Stages, 'budget'> = {
      loader: new CandidateLoader(new Corpora(redis, this.#keys), this.#folders, options.corpusCacheBytes, embeddings),
      scorers: this.scorers,
      cache: new ScoreCache(redis, this.#keys, options),
      flights: new ScoreFlights(),
      scripts: this.#scripts,
      metrics: this.metrics,
      answeredWith: async (id) => outcomeOf(await redis.getrange(this.#keys.result(id), 0, ANSWER_HEAD)),
      now,
    }
    // A share for each lane: neither can keep the other waiting for memory.
    const share = Math.max(1, Math.floor(options.maxInflightPairs / LANES.length))
    this.#stages = {
      interactive: { ...stages, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
      bulk: { ...stages, budget: new PairBudget({ pairs: share, maxAgeMs: options.maxEntryAgeMs, now }) },
    }
    const warn = (error: Error) => log.warn({ err: error.message }, 'queue connection')
    this.#queues = new LaneQueues(redis, this.#keys, warn)
    this.#lanes = new JobLanes(redis, options, {
      take: (job, token, lane) => this.#take(job, token, lane),
      failed: (job, error) => void this.#failed(job, error),
      error: warn,
      load: () => this.#load(),
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
    if (force) this.#abortRunning()
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #start(): Promise<void> {
    const { metricsHost, metricsPort, device } = this.#options
    collectQueues(this.metrics.registry, this.#queues.all, () => this.#isReporter, this.#now)
    this.#server = await serveMonitoring(
      {
        contentType: this.metrics.registry.contentType,
        metrics: () => this.metrics.registry.metrics(),
        alive: () => this.#alive(),
        ready: () => ({
          ok: this.#ready && this.#redis.status === 'ready',
          checks: { redis: this.#redis.status, model: this.#ready ? 'loaded' : 'loading' },
        }),
      },
      metricsHost,
      metricsPort,
    )
    this.#log.info({ url: this.#server.url, device }, 'metrics and health')
    await this.scorers.get(null, 'auto')
    await this.#listenForCancellations()
    await this.#beat()
    this.#heartbeat = setInterval(() => void this.#beat().catch(() => undefined), HEARTBEAT_MS)
    await this.#lanes.run()
    this.#ready = true
  }

  async #close(): Promise<void> {
    clearInterval(this.#heartbeat)
    // First of all it takes no more, or it would take again what it gives back.
    const drained = this.#lanes.close()
    await within(this.#scripts.farewell(this.id), 1000).catch(() => false)
    // Without Redis no job can be finished or given back: it comes back by itself when its lock runs out.
    const drainMs = this.#redis.status === 'ready' ? this.#options.drainTimeoutMs : 0
    if (!(await within(drained, drainMs))) {
      this.#log.warn({ jobs: this.#runningJobs() }, 'not drained in time: running jobs go back to the queue')
      this.#abortRunning()
      await within(drained, GIVE_BACK_MS)
    }
    const failed = await closeAll([
      { name: 'heartbeat', close: () => within(this.#scripts.farewell(this.id), 1000) },
      { name: 'corpora', close: () => this.#folders.close() },
      { name: 'models', close: () => this.scorers.close() },
      { name: 'metrics server', close: () => this.#server?.close() },
      { name: 'subscriber', close: () => this.#subscriber?.disconnect() },
      { name: 'queues', close: () => within(this.#queues.close(), 1000) },
      { name: 'redis', close: () => this.#redis.disconnect() },
    ])
    for (const { name, error } of failed) this.#log.warn({ step: name, err: error }, 'closing')
  }

  /** BullMQ's processor: whatever happens to a job is decided here. */
  async #take(job: Job<RerankJob>, token: string, lane: Lane): Promise<void> {
    const controller = this.#track(job.data.requestId)
    try {
      const answered = await processJob(job.data, this.#stages[lane], controller.signal)
      if (answered) this.#observeEnd(job.data, 'completed')
      this.#jobsDone++
    } catch (cause) {
      if (cause instanceof UnrecoverableError) throw cause
      if (cause instanceof NewerJob) {
        this.#log.warn({ job: job.id, err: cause.message }, 'a job of a newer release goes back to the queue')
        await job.moveToDelayed(Date.now() + NEWER_JOB_MS, token)
        throw new DelayedError()
      }
      const error = RankmillError.from(cause)
      if (error.code === 'closed') {
        await job.moveToWait(token)
        throw new WaitingError()
      }
      await this.#settleError(job, error)
    } finally {
      this.#untrack(job.data.requestId, controller)
    }
  }

  /** Answers with the error, unless another try can help. */
  async #settleError(job: Job<RerankJob>, error: RankmillError): Promise<void> {
    const attemptsLeft = (job.opts.attempts ?? 1) - job.attemptsMade - 1
    const ordinary = ORDINARY_ENDS.has(error.code)
    if (error.retryable && !ordinary && attemptsLeft > 0) {
      this.metrics.retries.inc({ reason: error.code })
      this.#log.warn({ job: job.id, code: error.code, err: error.message, attemptsLeft }, 'job will be tried again')
      throw error
    }
    if (error.code === 'internal') this.#log.error({ job: job.id, err: error }, 'job failed by a defect')
    if (await writeError(this.#scripts, job.data, error.toBody())) this.#observeEnd(job.data, error.code)
    if (!ordinary) throw new UnrecoverableError(`${error.code}: ${error.message}`)
  }

  /** Jobs that BullMQ gave up itself, because they lost their worker too often, still owe an answer. */
  async #failed(job: Job<RerankJob> | undefined, cause: Error): Promise<void> {
    if (!job || (await job.isFailed().catch(() => false)) === false) return
    const message = `the job was given up after ${job.attemptsMade} attempts: ${cause.message}`
    const error = new RankmillError('worker_lost', message)
    const wrote = await writeError(this.#scripts, job.data, error.toBody()).catch(() => false)
    if (wrote) this.#observeEnd(job.data, error.code)
  }

  #observeEnd(job: RerankJob, outcome: 'completed' | ErrorCode): void {
    this.metrics.requestDuration.observe({ outcome }, Math.max(0, this.#now() - job.submittedAt) / 1000)
    if (outcome !== 'completed') this.metrics.failures.inc({ code: outcome })
  }

  #track(requestId: string): AbortController {
    const controller = new AbortController()
    if (this.#givesBack) controller.abort(new RankmillError('closed', 'the worker is stopping'))
    const running = this.#running.get(requestId)
    if (running) running.add(controller)
    else this.#running.set(requestId, new Set([controller]))
    return controller
  }

  #untrack(requestId: string, controller: AbortController): void {
    const running = this.#running.get(requestId)
    running?.delete(controller)
    if (running?.size === 0) this.#running.delete(requestId)
  }

  #runningJobs(): number {
    return [...this.#running.values()].reduce((sum, jobs) => sum + jobs.size, 0)
  }

  /** What was being fetched meanwhile ends as well. */
  #abortRunning(): void {
    this.#givesBack = true
    const reason = new RankmillError('closed', 'the worker is stopping')
    for (const jobs of this.#running.values()) for (const controller of jobs) controller.abort(reason)
  }

  async #listenForCancellations(): Promise<void> {
    this.#subscriber = this.#redis.duplicate({ connectionName: 'rankmill-cancellations' })
    this.#subscriber.on('error', () => undefined)
    this.#subscriber.on('message', (_channel: string, id: string) => {
      const reason = new RankmillError('cancelled', `request "${id}" was cancelled`)
      for (const controller of this.#running.get(id) ?? []) controller.abort(reason)
    })
    await this.#subscriber.subscribe(this.#keys.cancelChannel)
  }

  async #beat(): Promise<void> {
    const jobsPerSecond = (this.#jobsDone - this.#jobsDoneBefore) / (HEARTBEAT_MS / 1000)
    this.#jobsDoneBefore = this.#jobsDone
    const info: WorkerInfo = {
      id: this.id,
      host: hostname(),
      pid: process.pid,
      models: this.scorers.names,
      loaded: [...this.scorers.loaded].map(({ model: { name, dtype, fingerprint } }) => ({ name, dtype, fingerprint })),
      metricsUrl: this.metricsUrl,
      startedAt: this.#startedAt,
      jobsPerSecond,
      appetite: this.#lanes.appetite,
    }
    await this.#scripts.heartbeat(this.id, JSON.stringify(info))
    const alive = await this.#scripts.workers()
    const [first] = alive.sort((a, b) => a.startedAt - b.startedAt || (a.id < b.id ? -1 : 1))
    this.#isReporter = first?.id === this.id
  }

  #load(): Load {
    let pairsWaiting = 0
    let roundPairs = 0
    for (const { batcher, engine } of this.scorers.loaded) {
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
    return { ok: stuck.length === 0, checks: { inference, jobs: String(this.#runningJobs()) } }
  }
}

/** What a request was answered with, from the beginning of its answer's text. */
function outcomeOf(head: string): 'result' | ErrorCode | undefined {
  if (head === '') return undefined
  return (/^\{"error":\{"code":"(\w+)"/.exec(head)?.[1] as ErrorCode | undefined) ?? 'result'
}
