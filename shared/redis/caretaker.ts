/**
 * Looks after what others left behind: jobs of workers that died, requests past their deadlines that no worker took, and
 * requests that have neither a job nor an answer, of which there should be none. One process of a fleet does it at a time;
 * which one does not matter, and two at once do no harm.
 */
import type { Redis } from 'ioredis'
import { Corpora } from '../corpus/corpora.js'
import { requestPin } from '../corpus/corpus-name.js'
import { type ErrorCode, RankmillError } from '../errors.js'
import type { Logger } from '../logger.js'
import type { Options } from '../options.js'
import type { Keys } from '../protocol/keys.js'
import { describePool, serves, unservedField } from '../protocol/pool.js'
import type { WorkerInfo } from '../protocol/worker-info.js'
import { type JobState, JobSurvey } from './job-survey.js'
import { PoolQueues } from './pool-queues.js'
import { redisError } from './redis-errors.js'
import { errorEnd, type HeldJob, type OpenRequest, type Place, RequestLife, type RequestNote } from './request-life.js'
import { passes } from './until-passes.js'
import { WorkerRegistry } from './worker-registry.js'

export interface CaretakerEvents {
  /** A dead worker's jobs are back in the queue. */
  readonly recovered: (reason: 'worker_lost', jobs: number) => void
  /** A request was found that nobody would have answered. */
  readonly reconciled: (id: string) => void
}

/** Requests that are read together: bounds what one of its commands costs Redis, and the others who wait for it. */
const SLICE = 250
/** Requests of a slice that something has to be done for, at once. */
const AT_ONCE = 32
/** A round looks after what is due for so long; the next one goes on. */
const ROUND_MS = 1000
/** Nothing is looked after later than this, whoever noted it. */
const LONGEST_LOOK_MS = 300_000
/** The longest that a job waits for another try where nobody has set more. */
const LONGEST_DELAY_MS = 300_000
/** A request that waits for a worker to say which model is meant is looked after so often, at first. */
const UNRESOLVED_MS = 1000

export interface CaretakerTimes {
  /** An unanswered request is looked after again when it has waited half as long again, within these bounds. */
  readonly soonestMs: number
  readonly latestMs: number
  /** A producer may take so long from its note to its last job. */
  readonly queueingMs: number
  /** A request that is about to be forgotten unanswered is answered before. */
  readonly beforeExpiryMs: number
  /** What is known of the queues' lists serves for so long. */
  readonly pictureMs: number
  /** A delayed job may be so late, by Redis' clock. */
  readonly overdueMs: number
  /** A pool that nobody serves and has no jobs is forgotten so long after its last request. */
  readonly poolMs: number
}

const TIMES: CaretakerTimes = {
  soonestMs: 15_000,
  latestMs: 300_000,
  queueingMs: 60_000,
  beforeExpiryMs: 5_000,
  pictureMs: 30_000,
  overdueMs: 10_000,
  poolMs: 86_400_000,
}

type CaretakerOptions = Pick<Options, 'maxStalled' | 'unservedMs' | 'attempts' | 'retryBackoffMs'>

export class Caretaker {
  readonly #id: string
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #options: CaretakerOptions
  readonly #life: RequestLife
  readonly #registry: WorkerRegistry
  readonly #queues: PoolQueues
  readonly #survey: JobSurvey
  readonly #corpora: Pick<Corpora, 'shortenPin'>
  readonly #events: CaretakerEvents
  readonly #log: Logger
  readonly #times: CaretakerTimes
  /** Pools that nobody serves, by when this was first seen here. */
  readonly #unserved = new Map<string, number>()
  #round: Promise<void> | undefined

  /**
   * @param id what it calls itself among those that would do the same
   * @param corpora of the fleet; default: those that lie beside the requests
   */
  constructor(
    id: string,
    redis: Redis,
    keys: Keys,
    options: CaretakerOptions,
    events: CaretakerEvents,
    log: Logger,
    times: CaretakerTimes = TIMES,
    corpora: Pick<Corpora, 'shortenPin'> = new Corpora(redis, keys),
  ) {
    this.#id = id
    this.#redis = redis
    this.#keys = keys
    this.#options = options
    this.#life = new RequestLife(redis, keys)
    this.#registry = new WorkerRegistry(redis, keys)
    this.#queues = new PoolQueues(redis, keys)
    this.#events = events
    this.#log = log
    this.#times = times
    this.#corpora = corpora
    const { attempts, retryBackoffMs } = options
    this.#survey = new JobSurvey(redis, keys, this.#queues, {
      pictureMs: times.pictureMs,
      overdueMs: times.overdueMs,
      longestDelayMs: Math.max(LONGEST_DELAY_MS, 2 * retryBackoffMs * 2 ** (attempts - 1)),
    })
  }

  /** One round, if it is this one's turn; rounds do not overlap. */
  look(): Promise<void> {
    this.#round ??= this.#look().finally(() => {
      this.#round = undefined
    })
    return this.#round
  }

  async close(): Promise<void> {
    await this.#round?.catch(() => undefined)
    await this.#queues.close()
  }

  async #look(): Promise<void> {
    if (!(await this.#registry.takeCare(this.#id))) return
    for (const worker of await this.#registry.dead()) await this.#apart(worker, () => this.#recover(worker))
    const workers = await this.#registry.workers()
    for (const pool of this.#unserved.keys()) {
      if (workers.some((worker) => serves(worker, pool))) this.#unserved.delete(pool)
    }
    const isServed = (pool: string) => workers.some((worker) => serves(worker, pool))
    const startedAt = performance.now()
    let due: Awaited<ReturnType<RequestLife['due']>>
    do {
      due = await this.#life.due(SLICE, Math.max(this.#times.latestMs, LONGEST_LOOK_MS))
      await this.#examineAll(due.ids, due.now, workers)
    } while (due.ids.length === SLICE && performance.now() - startedAt < ROUND_MS)
    this.#survey.forget(due.now)
    await this.#queues.forgetUnused(due.now - this.#times.poolMs, isServed)
  }

  /** Most need nothing: they are told from the others in a few round trips for all. */
  async #examineAll(ids: readonly string[], now: number, workers: readonly WorkerInfo[]): Promise<void> {
    if (ids.length === 0) return
    const served = new Map<string, boolean>()
    const isServed = (pool: string) => {
      const known = served.get(pool) ?? workers.some((worker) => serves(worker, pool))
      served.set(pool, known)
      return known
    }
    const waiting: OpenRequest[] = []
    const others: { readonly what: string; readonly look: () => Promise<void> }[] = []
    const read = await this.#life.readAll(ids)
    ids.forEach((what, i) => {
      const request = read[i]
      if (request instanceof Error) others.push({ what, look: () => Promise.reject(request) })
      else if (!request) others.push({ what, look: () => this.#life.later(what, this.#times.soonestMs) })
      else if (this.#isWaiting(request, now, isServed)) waiting.push(request)
      else others.push({ what, look: () => this.#examine(request, now, workers) })
    })
    const known = waiting.filter(({ queued, submittedAt }) => queued || now - submittedAt >= this.#times.queueingMs)
    const states = await this.#survey.states(known, openParts, now)
    const fits = new Map(waiting.map((request) => [request.id, this.#nextLook(request, now)]))
    known.forEach((request, i) => {
      const open = states[i] ?? []
      if (request.queued && isUnderWay(request, open)) return
      fits.delete(request.id)
      others.push({ what: request.id, look: () => this.#mend(request, open, now) })
    })
    await this.#life.laterAll(now, fits)
    for (let first = 0; first < others.length; first += AT_ONCE) {
      await Promise.all(others.slice(first, first + AT_ONCE).map(({ what, look }) => this.#apart(what, look)))
    }
  }

  /** Whether it can only be its jobs that need something. */
  #isWaiting(request: OpenRequest, now: number, isServed: (pool: string) => boolean): boolean {
    const { movedFrom, unresolved, deadlineAt, leftMs, pool } = request
    if (movedFrom || unresolved || !isServed(pool)) return false
    return !(deadlineAt !== null && now > deadlineAt) && !(leftMs >= 0 && leftMs < this.#times.beforeExpiryMs)
  }

  #nextLook({ unresolved, submittedAt, deadlineAt, leftMs }: OpenRequest, now: number): number {
    const { soonestMs, latestMs, beforeExpiryMs } = this.#times
    const soonest = unresolved ? UNRESOLVED_MS : Math.min(soonestMs, this.#options.unservedMs)
    const next = Math.min(latestMs, Math.max(soonest, (now - submittedAt) / 2))
    const until = [deadlineAt === null ? next : deadlineAt - now + 1, leftMs < 0 ? next : leftMs - beforeExpiryMs + 1]
    return Math.ceil(Math.max(1, Math.min(next, ...until)))
  }

  /** What cannot be looked after, because what Redis holds of it makes no sense, keeps nothing else from being. */
  async #apart(what: string, look: () => Promise<void>): Promise<void> {
    try {
      await look()
    } catch (error) {
      if (passes(error)) throw error
      this.#log.warn({ what, err: redisError(error) }, 'cannot be looked after')
      await this.#life.later(what, this.#times.latestMs)
    }
  }

  /** Gives back what a dead worker had in hand. Should it live after all, what it brings is the same, or refused. */
  async #recover(worker: string): Promise<void> {
    let recovered = 0
    const [held, info] = await Promise.all([this.#registry.heldBy(worker), this.#registry.infoOf(worker)])
    // What it had fetched and not begun is known by its locks alone.
    const fetched = await this.#queues.lockedBy(info?.lockers ?? [])
    const begun = new Set(held.map(({ jobId }) => jobId))
    for (const job of [...held, ...fetched.filter(({ jobId }) => !begun.has(jobId))]) {
      const lost = await this.#life.lose(job)
      if (lost > this.#options.maxStalled) await this.#giveUpOn(job, lost)
      else if (await this.#queues.giveBack(job)) {
        await this.#life.giveBack(worker, job)
        recovered++
      }
    }
    await this.#registry.farewell(worker)
    if (recovered === 0) return
    this.#events.recovered('worker_lost', recovered)
    this.#log.warn({ worker, jobs: recovered }, 'a worker died: its jobs are back in the queue')
  }

  /** A job that takes its workers down too often. */
  async #giveUpOn(held: HeldJob, lost: number): Promise<void> {
    const message = `the job was given up: ${lost} workers died while they had it in hand`
    const note = await this.#life.read(held.requestId)
    if (note?.generation === held.generation) await this.#answer(held.requestId, note, 'worker_lost', message)
    await this.#queues.fail(held, message)
  }

  async #examine(request: OpenRequest, now: number, workers: readonly WorkerInfo[]): Promise<void> {
    const { id, deadlineAt, submittedAt, pool, leftMs } = request
    if (request.movedFrom) await this.#move(id, { ...request, ...request.movedFrom }, request)
    if (request.unresolved && (await this.#resolve(id, request))) {
      return this.#life.later(id, this.#times.soonestMs)
    }
    if (deadlineAt !== null && now > deadlineAt) {
      await this.#end(id, request, 'deadline_exceeded', `request "${id}" was not done within its deadline`)
    } else if (leftMs >= 0 && leftMs < this.#times.beforeExpiryMs) {
      await this.#end(id, request, 'deadline_exceeded', `request "${id}" was not done while it was remembered`)
    } else if (!workers.some((worker) => serves(worker, pool)) && this.#isUnservedTooLong(pool, now - submittedAt)) {
      const param = unservedField(workers, pool)
      const message = `${param}: no worker has served ${describePool(pool)} for ${this.#options.unservedMs} ms`
      await this.#end(id, request, 'unknown_model', message, param)
    } else if (request.queued || now - submittedAt >= this.#times.queueingMs) {
      const [states = []] = await this.#survey.states([request], openParts, now)
      await this.#mend(request, states, now)
    } else {
      await this.#life.later(id, this.#nextLook(request, now))
    }
  }

  /** The first worker of a fleet says which model is meant where requests name none: those that came before it follow. */
  async #resolve(id: string, note: RequestNote): Promise<boolean> {
    const after = await this.#life.resolve(id, note.generation)
    if (after) await this.#move(id, note, { ...note, ...after })
    return after !== undefined
  }

  /** Safe to repeat: whoever began it may have died in the middle. */
  async #move(id: string, from: Place, to: Place & { readonly shared: string }): Promise<void> {
    await this.#queues.move(id, from, to)
    await this.#life.queued([{ id, generation: to.generation, shared: to.shared }])
  }

  #isUnservedTooLong(pool: string, ageMs: number): boolean {
    const since = this.#unserved.get(pool)
    if (since === undefined) this.#unserved.set(pool, performance.now())
    const { unservedMs } = this.#options
    return ageMs > unservedMs && since !== undefined && performance.now() - since > unservedMs
  }

  /**
   * Makes sure that a job, or somebody's answer, will end the request.
   *
   * @param states of its open parts
   */
  async #mend(request: OpenRequest, states: readonly JobState[], now: number): Promise<void> {
    const { id } = request
    const open = openParts(request)
    const isScored = request.scored.size === request.parts
    const again = open.filter((_, i) => states[i] === 'completed')
    if (isUnderWay(request, states)) {
      // Its producer died after the last job, or before it could say so.
      if (!request.queued) await this.#life.queued([request])
    } else if (states.includes('failed')) {
      return this.#found(id, request, 'worker_lost', 'its job failed, and whoever saw it died before saying so')
    } else if (states.includes('absent') && (!isScored || again.length === 0)) {
      return this.#found(id, request, 'request_lost', 'a part of it is not in the queue')
    } else {
      for (const part of isScored ? again.slice(0, 1) : again) {
        // One that is back already was put there by a worker.
        await this.#queues.again(id, request, part, 'completed').catch((error) => {
          if (passes(error)) throw error
        })
      }
      if (again.length > 0) this.#tell(id, 'its jobs were done and its parts were not: they are back in the queue')
      await this.#freeStuck(request, open, states)
    }
    await this.#life.later(id, this.#nextLook(request, now))
  }

  /** Jobs that are there and that nobody would have taken. */
  async #freeStuck(request: OpenRequest, open: readonly number[], states: readonly JobState[]): Promise<void> {
    const limbo = open.filter((_, i) => states[i] === 'limbo')
    let queued = 0
    for (const part of limbo) if (await this.#queues.requeue(request.id, request, part)) queued++
    if (queued > 0) this.#tell(request.id, 'its jobs were in no list: they are back in the queue')
    const delayed = open.filter((_, i) => states[i] === 'delayed')
    for (const part of delayed) await this.#queues.promote(request.id, request, part)
    if (delayed.length > 0)
      this.#tell(request.id, 'its jobs waited for a clock that is off: they are back in the queue')
  }

  async #found(id: string, note: RequestNote, code: ErrorCode, why: string): Promise<void> {
    if (await this.#end(id, note, code, `request "${id}" was lost: ${why}`)) this.#tell(id, why)
  }

  #tell(id: string, why: string): void {
    this.#events.reconciled(id)
    this.#log.warn({ request: id }, `a request that nobody would have answered: ${why}`)
  }

  /** @returns whether it was this that ended it */
  async #end(id: string, note: RequestNote, code: ErrorCode, message: string, param?: string): Promise<boolean> {
    if (!(await this.#answer(id, note, code, message, param))) return false
    await this.#redis.publish(this.#keys.cancelChannel, `${note.generation} ${id}`)
    // What failed is kept for `rankmill failed`.
    if (code !== 'worker_lost') await this.#queues.remove(id, note)
    return true
  }

  async #answer(id: string, note: RequestNote, code: ErrorCode, message: string, param?: string): Promise<boolean> {
    const details = param === undefined ? {} : { param }
    const end = errorEnd(new RankmillError(code, message, details).toBody(), note.generation)
    if ((await this.#life.answer({ id, ...note }, end)).outcome !== 'written') return false
    if (note.corpus) await this.#corpora.shortenPin(note.corpus, requestPin(id), note.resultTtlMs)
    return true
  }
}

/** Parts whose jobs have to be somewhere. Where all are scored, the job of any will bring them together. */
function openParts({ parts, scored }: OpenRequest): number[] {
  const all = Array.from({ length: parts }, (_, part) => part)
  return scored.size === parts ? all : all.filter((part) => !scored.has(part))
}

/** @param states of its open parts */
function isUnderWay({ parts, scored }: OpenRequest, states: readonly JobState[]): boolean {
  if (scored.size === parts) return states.includes('under way')
  return states.every((state) => state === 'under way')
}
