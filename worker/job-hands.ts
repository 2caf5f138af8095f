/** The jobs that a worker has in hand: takes each up, has it scored, writes what it came to, and ends every one of them. */
import { DelayedError, type Job, UnrecoverableError, WaitingError } from 'bullmq'
import { LRUCache } from 'lru-cache'
import type { WorkerMetrics } from '../monitoring/metrics.js'
import { requestPin } from '../shared/corpus/corpus-name.js'
import type { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import type { Logger } from '../shared/logger.js'
import { isCorpusReference } from '../shared/protocol/documents.js'
import type { RerankJob, ScoredPart } from '../shared/protocol/job.js'
import { partOfJob } from '../shared/protocol/keys.js'
import type { Lane } from '../shared/protocol/lanes.js'
import { needsOf, serves } from '../shared/protocol/pool.js'
import { TRACE_PARENT } from '../shared/protocol/request.js'
import type { WorkerInfo } from '../shared/protocol/worker-info.js'
import type { PoolQueues } from '../shared/redis/pool-queues.js'
import { redisError } from '../shared/redis/redis-errors.js'
import { errorEnd, type HeldJob, type RequestLife, type Taken } from '../shared/redis/request-life.js'
import { passes, untilPasses } from '../shared/redis/until-passes.js'
import type { WorkerRegistry } from '../shared/redis/worker-registry.js'
import { NewerJob, readJob } from './pipeline/read-job.js'
import type { Scorer } from './pipeline/scorer.js'
import { type Holder, type Written, writePart, writeResult } from './pipeline/write-result.js'
import { processJob, type Stages } from './process-job.js'

/** Ends that belong to the request's own life, not faults of the job: nothing for `failed ls`. */
const ORDINARY_ENDS: ReadonlySet<ErrorCode> = new Set(['cancelled', 'deadline_exceeded'])
/** A part that belongs to workers of another score space is offered to them again after so long. */
const ELSEWHERE_MS = 250
/** … and so many times; should those have nothing in hand and not take it, the request goes on here. */
const ELSEWHERE_TRIES = 40
/** Bounds what is remembered of them: one that is forgotten is only waited for longer. */
const MOST_PASSED_ON = 10_000
/** A job that is for others and that nobody puts forward comes back by itself, by the clock of whoever looks. */
const FORGOTTEN_MS = 5000
const PUT_FORWARD_TRIES = 6
/** A Redis that refuses this worker (a password that was changed, a right that was taken) is waited for so long. */
const REFUSAL_MS = 60_000
/** Codes of it: they say nothing of the request. */
const REFUSED: ReadonlySet<ErrorCode> = new Set(['redis_denied', 'redis_misconfigured'])
/** A job of a newer release is offered again after this: some worker will be of that release. */
const NEWER_JOB_MS = 1000

export interface JobHandsParts {
  readonly worker: string
  readonly life: RequestLife
  readonly registry: WorkerRegistry
  readonly queues: PoolQueues
  readonly corpora: Pick<CorpusShelves, 'release' | 'shortenPin'>
  readonly metrics: WorkerMetrics
  readonly stages: Readonly<Record<Lane, Stages>>
  /** Of requests and results that release 0.1.0 noted. */
  readonly ttlMs: readonly [request: number, result: number]
  readonly log: Logger
  readonly now: () => number
}

export class JobHands {
  readonly #parts: JobHandsParts
  /** By generation and request: cancellation ends all parts of a request that run here. */
  readonly #running = new Map<string, Set<AbortController>>()
  /** Parts of other score spaces, by the try at which those who score in them were last seen at work. */
  readonly #passedOn = new LRUCache<string, number>({ max: MOST_PASSED_ON })
  #givesBack = false

  constructor(parts: JobHandsParts) {
    this.#parts = parts
  }

  get size(): number {
    return [...this.#running.values()].reduce((sum, jobs) => sum + jobs.size, 0)
  }

  /** BullMQ's processor: whatever happens to a job is decided here. */
  async take(job: Job<RerankJob>, token: string, pool: string, lane: Lane): Promise<void> {
    const { requestId, generation = 0, part } = isEmpty(job) ? (partOfJob(job.id ?? '') ?? job.data) : job.data
    const held: HeldJob = { requestId, generation, part, queue: job.queueName, jobId: job.id ?? '', token }
    const controller = this.#track(held)
    try {
      await this.#untilTold(job, held, pool, lane, controller.signal)
    } catch (cause) {
      if (cause instanceof DelayedError || cause instanceof UnrecoverableError) throw cause
      if (cause instanceof NewerJob) {
        this.#parts.log.warn({ job: job.id, err: cause.message }, 'a job of a newer release goes back to the queue')
        return await this.#leaveToOthers(job, held, NEWER_JOB_MS)
      }
      const error = ofRequest(redisError(cause))
      if (error.code === 'closed') {
        await job.moveToWait(token)
        await this.#giveBack(held)
        throw new WaitingError()
      }
      await this.#settleError(job, held, error)
    } finally {
      this.#untrack(held, controller)
    }
  }

  /** A split request's jobs keep its content until it is answered, or opened again, and no longer. */
  async completed({ data, id }: Job<RerankJob>, queue: string): Promise<void> {
    const { life, queues } = this.#parts
    if (data.parts === 1) return
    const [note, isAnswered] = await Promise.all([life.read(data.requestId), life.isAnswered(data.requestId)])
    if (note?.generation === data.generation && !isAnswered) return
    await queues.named(queue).remove(id ?? '')
  }

  /** Jobs that BullMQ gave up itself, because they lost their worker too often, still owe an answer. */
  async failed(job: Job<RerankJob> | undefined, cause: Error): Promise<void> {
    if (!job || (await job.isFailed()) === false) return
    // It was answered by what its id says, and there is nothing to be tried again.
    if (isEmpty(job)) return void (await job.remove())
    const message = `the job was given up after ${job.attemptsMade} attempts: ${cause.message}`
    const { requestId: id, generation = 0 } = job.data
    const note = await this.#parts.life.read(id)
    const end = errorEnd(new RankmillError('worker_lost', message).toBody(), generation)
    const { outcome, durationMs } = await this.#parts.life.answer({ id, generation, shared: note?.shared ?? '' }, end)
    if (outcome === 'written') this.#observeEnd('worker_lost', durationMs)
  }

  cancel(id: string, generation: number): void {
    const reason = new RankmillError('cancelled', `request "${id}" was cancelled`)
    for (const controller of this.#running.get(`${generation} ${id}`) ?? []) controller.abort(reason)
  }

  /** Ends all work, and what is being fetched meanwhile: jobs go back into the queue. */
  abortAll(): void {
    this.#givesBack = true
    const reason = new RankmillError('closed', 'the worker is stopping')
    for (const jobs of this.#running.values()) for (const controller of jobs) controller.abort(reason)
  }

  /** A Redis that cannot be reached, or takes no writes, is waited for: it is no fault of the job. */
  #untilTold(job: Job<RerankJob>, held: HeldJob, pool: string, lane: Lane, signal: AbortSignal): Promise<void> {
    const patience = { limitMs: Number.POSITIVE_INFINITY, refusalMs: REFUSAL_MS, signal }
    return untilPasses(() => this.#attempt(job, held, pool, lane, signal), patience)
  }

  async #attempt(job: Job<RerankJob>, held: HeldJob, pool: string, lane: Lane, signal: AbortSignal): Promise<void> {
    const { life, worker, metrics, now } = this.#parts
    const stages = this.#parts.stages[lane]
    if (isEmpty(job)) throw new RankmillError('request_lost', 'what its job holds is gone from Redis')
    const data = readJob(job.data)
    if (data.v === 1) await life.adopt(data, pool, lane, ...this.#parts.ttlMs)
    const scorer = await stages.scorers.get(data.model || needsOf(pool).model, data.dtype)
    const taken = await life.take(worker, held, scorer.space)
    const local = byOwnClock(data, taken, now())
    const holder: Holder = { life, worker, held, taken, space: scorer.space, now }
    const patience = { limitMs: Number.POSITIVE_INFINITY, refusalMs: REFUSAL_MS, signal }
    switch (taken.outcome) {
      case 'score': {
        const part: ScoredPart = await processJob(local, scorer, stages, signal)
        // What was scored is not scored again because Redis could not take it.
        const write = () => metrics.time('write', () => writePart(holder, local, part))
        return this.#wrote(job, held, await untilPasses(write, patience), scorer)
      }
      case 'merge': {
        const parts = (await life.parts(held.requestId)).map((text) => JSON.parse(text) as ScoredPart)
        return this.#wrote(job, held, await untilPasses(() => writeResult(holder, local, parts), patience), scorer)
      }
      case 'late':
        throw new RankmillError(
          'deadline_exceeded',
          `the request's deadline passed ${now() - (local.deadlineAt ?? 0)} ms before a worker could take it up`,
        )
      case 'elsewhere':
        return this.#elsewhere(job, held, taken.space, scorer)
      case 'answered':
        // A part whose sibling failed is not worth scoring, but is kept with it, so that both can be tried again.
        if (job.data.parts === 1 || taken.code === '' || ORDINARY_ENDS.has(taken.code)) return
        throw new UnrecoverableError(`${taken.code}: another part of the request failed`)
      default:
        // It is done, or belongs to another life of the request.
        return
    }
  }

  async #wrote(job: Job<RerankJob>, held: HeldJob, { outcome, durationMs }: Written, scorer: Scorer): Promise<void> {
    const { life, queues, corpora } = this.#parts
    if (outcome === 'elsewhere') {
      const note = await life.read(held.requestId)
      return this.#elsewhere(job, held, note?.space ?? '', scorer)
    }
    if (outcome !== 'written') return
    const { requestId, parts, documents, pinned } = job.data
    this.#observeEnd('completed', durationMs)
    const trace = traceOf(job)
    if ('trace' in trace) this.#parts.log.debug({ job: job.id, ...trace, ms: durationMs }, 'a traced request is done')
    if (parts === 1) return
    const note = await life.read(requestId)
    if (note?.generation === held.generation) await queues.remove(requestId, note)
    if (pinned && isCorpusReference(documents)) await corpora.release(documents.corpus, requestPin(requestId))
  }

  /**
   * A part of a request that was begun in another score space: it is left to the workers of that one as long as there are
   * any that work; then the whole request goes on in this one. Those that have anything in hand come to it in their turn, however
   * long that takes: two that took it from each other would begin it again for ever.
   */
  async #elsewhere(job: Job<RerankJob>, held: HeldJob, space: string, scorer: Scorer): Promise<void> {
    const { life, registry, queues } = this.#parts
    const pool = job.queueName.slice(job.queueName.indexOf('@') + 1)
    const workers = await registry.workers()
    const owners = workers.filter((worker) => worker.spaces.includes(space) && serves(worker, pool))
    if (space !== scorer.space && !(await this.#areComing(owners, job, held))) {
      const note = await life.read(held.requestId)
      for (const part of await life.rebase(held, space, scorer.space)) {
        if (note) await queues.again(held.requestId, note, part, 'completed').catch(() => undefined)
      }
    }
    return this.#leaveToOthers(job, held, ELSEWHERE_MS)
  }

  /** Whether any of a part's workers is at work, or may still take it. */
  async #areComing(owners: readonly WorkerInfo[], job: Job<RerankJob>, { jobId }: HeldJob): Promise<boolean> {
    if (owners.length === 0) return false
    const since = this.#passedOn.get(jobId)
    let isAnyAtWork = false
    for (const { id } of owners) isAnyAtWork ||= await this.#parts.registry.isAtWork(id)
    if (isAnyAtWork || since === undefined) this.#passedOn.set(jobId, job.attemptsStarted)
    return isAnyAtWork || since === undefined || job.attemptsStarted - since < ELSEWHERE_TRIES
  }

  /**
   * A job that others have to do waits for a moment, and is then put forward from here. BullMQ would find it due by the clock
   * of each worker: one that is ahead would take its own job back for ever, before the others see it.
   */
  async #leaveToOthers(job: Job<RerankJob>, held: HeldJob, ms: number): Promise<never> {
    await job.moveToDelayed(this.#parts.now() + ms + FORGOTTEN_MS, held.token)
    this.#putForward(job, ms)
    await this.#giveBack(held)
    throw new DelayedError()
  }

  /** Tried again where Redis takes no writes just now; else somebody has done so, or has the job in hand. */
  #putForward(job: Job<RerankJob>, ms: number, triesLeft = PUT_FORWARD_TRIES): void {
    const failed = (error: unknown) => {
      if (passes(error) && triesLeft > 1) this.#putForward(job, 2 * ms, triesLeft - 1)
    }
    setTimeout(() => void job.promote().catch(failed), ms).unref()
  }

  /** Answers with the error, unless another try can help. */
  async #settleError(job: Job<RerankJob>, held: HeldJob, error: RankmillError): Promise<void> {
    const { life, worker, metrics, corpora, log } = this.#parts
    const attemptsLeft = (job.opts.attempts ?? 1) - job.attemptsMade - 1
    const ordinary = ORDINARY_ENDS.has(error.code)
    if (error.retryable && !ordinary && attemptsLeft > 0) {
      metrics.retries.inc({ reason: error.code })
      log.warn(
        { job: job.id, ...traceOf(job), code: error.code, err: error.message, attemptsLeft },
        'job will be tried again',
      )
      await this.#giveBack(held)
      throw error
    }
    if (error.code === 'internal') log.error({ job: job.id, ...traceOf(job), err: error }, 'job failed by a defect')
    const { requestId: id, generation } = held
    const note = await life.read(id).catch(() => undefined)
    const shared = note?.shared ?? ''
    const end = errorEnd(error.toBody(), generation)
    const answer = () => life.answer({ id, generation, shared }, end, { worker, job: held })
    const { outcome, durationMs } = await untilPasses(answer, {
      limitMs: Number.POSITIVE_INFINITY,
      refusalMs: REFUSAL_MS,
    })
    if (outcome === 'written') this.#observeEnd(error.code, durationMs)
    if (outcome === 'written' && note?.corpus) {
      // What of it was scored may still be gone on with.
      await corpora.shortenPin(note.corpus, requestPin(id), note.resultTtlMs).catch(() => undefined)
    }
    if (!ordinary) throw new UnrecoverableError(`${error.code}: ${error.message}`)
  }

  async #giveBack(held: HeldJob): Promise<void> {
    await this.#parts.life.giveBack(this.#parts.worker, held).catch((error) => {
      if (!passes(error)) throw error
    })
  }

  #observeEnd(outcome: 'completed' | ErrorCode, durationMs: number): void {
    this.#parts.metrics.requestDuration.observe({ outcome }, durationMs / 1000)
  }

  #track(held: HeldJob): AbortController {
    const controller = new AbortController()
    if (this.#givesBack) controller.abort(new RankmillError('closed', 'the worker is stopping'))
    const key = `${held.generation} ${held.requestId}`
    const running = this.#running.get(key)
    if (running) running.add(controller)
    else this.#running.set(key, new Set([controller]))
    return controller
  }

  #untrack(held: HeldJob, controller: AbortController): void {
    const key = `${held.generation} ${held.requestId}`
    const running = this.#running.get(key)
    running?.delete(controller)
    if (running?.size === 0) this.#running.delete(key)
  }
}

/** What Redis refused this worker is no answer to a request: another worker may be allowed it. */
function ofRequest(error: RankmillError): RankmillError {
  if (!REFUSED.has(error.code)) return error
  return new RankmillError('worker_lost', `a worker could not finish the job: ${error.message}`)
}

/** Redis has lost what it holds (a deleted or evicted key), and BullMQ has written the rest of it anew. */
function isEmpty({ data }: Job<RerankJob>): boolean {
  return data.requestId === undefined
}

/** A job whose times are by this process' clock: Redis' is the one that counts. */
function byOwnClock(job: RerankJob, { now, submittedAt, deadlineAt }: Taken, own: number): RerankJob {
  const ahead = own - now
  return { ...job, submittedAt: submittedAt + ahead, deadlineAt: deadlineAt === null ? null : deadlineAt + ahead }
}

/** The trace that a request belongs to, for the log. */
function traceOf({ data }: Job<RerankJob>): { trace?: string } {
  const trace = TRACE_PARENT.exec(data.traceParent ?? '')?.[1]
  return trace === undefined ? {} : { trace }
}
