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
import { PoolQueues } from './pool-queues.js'
import { redisError } from './redis-errors.js'
import { errorEnd, type HeldJob, type Place, RequestLife, type RequestNote } from './request-life.js'
import { passes } from './until-passes.js'
import { WorkerRegistry } from './worker-registry.js'

export interface CaretakerEvents {
  /** A dead worker's jobs are back in the queue. */
  readonly recovered: (reason: 'worker_lost', jobs: number) => void
  /** A request was found that nobody would have answered. */
  readonly reconciled: (id: string) => void
}

/** Requests that are looked after in one round: bounds what it costs. */
const ROUND = 200
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
  /** A pool that nobody serves and has no jobs is forgotten so long after its last request. */
  readonly poolMs: number
}

const TIMES: CaretakerTimes = {
  soonestMs: 15_000,
  latestMs: 300_000,
  queueingMs: 60_000,
  beforeExpiryMs: 5_000,
  poolMs: 86_400_000,
}

export class Caretaker {
  readonly #id: string
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #options: Pick<Options, 'maxStalled' | 'unservedMs'>
  readonly #life: RequestLife
  readonly #registry: WorkerRegistry
  readonly #queues: PoolQueues
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
    options: Pick<Options, 'maxStalled' | 'unservedMs'>,
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
    const { now, ids } = await this.#life.due(ROUND)
    for (const id of ids) await this.#apart(id, () => this.#examine(id, now, workers))
    await this.#queues.forgetUnused(now - this.#times.poolMs, isServed)
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

  async #examine(id: string, now: number, workers: readonly WorkerInfo[]): Promise<void> {
    const { soonestMs, latestMs, beforeExpiryMs } = this.#times
    const note = await this.#life.read(id)
    if (!note) return this.#life.later(id, soonestMs)
    if (note.movedFrom) await this.#move(id, { ...note, ...note.movedFrom }, note)
    if (note.unresolved && (await this.#resolve(id, note))) return this.#life.later(id, soonestMs)
    const { deadlineAt, submittedAt, pool } = note
    const leftMs = await this.#redis.pttl(this.#keys.request(id))
    if (deadlineAt !== null && now > deadlineAt) {
      await this.#end(id, note, 'deadline_exceeded', `request "${id}" was not done within its deadline`)
    } else if (leftMs >= 0 && leftMs < beforeExpiryMs) {
      await this.#end(id, note, 'deadline_exceeded', `request "${id}" was not done while it was remembered`)
    } else if (!workers.some((worker) => serves(worker, pool)) && this.#isUnservedTooLong(pool, now - submittedAt)) {
      const param = unservedField(workers, pool)
      const message = `${param}: no worker has served ${describePool(pool)} for ${this.#options.unservedMs} ms`
      await this.#end(id, note, 'unknown_model', message, param)
    } else {
      await this.#reconcile(id, note, now - submittedAt)
      const soonest = note.unresolved ? UNRESOLVED_MS : Math.min(soonestMs, this.#options.unservedMs)
      const next = Math.min(latestMs, Math.max(soonest, (now - submittedAt) / 2))
      const until = [deadlineAt === null ? next : deadlineAt - now + 1, leftMs < 0 ? next : leftMs - beforeExpiryMs + 1]
      await this.#life.later(id, Math.max(1, Math.min(next, ...until)))
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
    await this.#life.queued({ id, generation: to.generation, shared: to.shared })
  }

  #isUnservedTooLong(pool: string, ageMs: number): boolean {
    const since = this.#unserved.get(pool)
    if (since === undefined) this.#unserved.set(pool, performance.now())
    const { unservedMs } = this.#options
    return ageMs > unservedMs && since !== undefined && performance.now() - since > unservedMs
  }

  /** Makes sure that a job, or somebody's answer, will end the request. */
  async #reconcile(id: string, note: RequestNote, ageMs: number): Promise<void> {
    if (!note.queued && ageMs < this.#times.queueingMs) return
    const all = Array.from({ length: note.parts }, (_, part) => part)
    const scored = note.parts === 1 ? new Set<number>() : await this.#life.scored(id)
    const isScored = scored.size === note.parts
    // Where all are scored, the job of any will bring them together.
    const open = isScored ? all : all.filter((part) => !scored.has(part))
    const states = await this.#queues.states(id, note, open)
    if (isScored ? states.includes('under way') : states.every((state) => state === 'under way')) {
      // Its producer died after the last job, or before it could say so.
      if (!note.queued) await this.#life.queued({ id, ...note })
      return
    }
    const again = open.filter((_, i) => states[i] === 'completed')
    if (states.includes('failed')) {
      await this.#found(id, note, 'worker_lost', 'its job failed, and whoever saw it died before saying so')
    } else if (isScored ? again.length > 0 : !states.includes('absent')) {
      for (const part of isScored ? again.slice(0, 1) : again) {
        // One that is back already was put there by a worker.
        await this.#queues.again(id, note, part, 'completed').catch((error) => {
          if (passes(error)) throw error
        })
      }
      this.#tell(id, 'its jobs were done and its parts were not: they are back in the queue')
    } else {
      await this.#found(id, note, 'request_lost', 'a part of it is not in the queue')
    }
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
