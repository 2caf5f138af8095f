/** The client library: what producers call. */
import { randomUUID } from 'node:crypto'
import { setTimeout as setTimeoutPromise } from 'node:timers/promises'
import type { CorpusInfo } from '../shared/corpus/corpora.js'
import { requestPin } from '../shared/corpus/corpus-name.js'
import { type ErrorBody, RankmillError } from '../shared/errors.js'
import { follow } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import { afterMs } from '../shared/long-timer.js'
import { envOf, type Options, type OptionsInput, resolveOptions } from '../shared/options.js'
import { fingerprintOf } from '../shared/protocol/fingerprint.js'
import type { Answer } from '../shared/protocol/job.js'
import { describePool, firstModel, serves } from '../shared/protocol/pool.js'
import {
  parseRequest,
  type RequestSchema,
  type RerankInput,
  type RerankRequest,
  requestSchema,
} from '../shared/protocol/request.js'
import type { RerankResult } from '../shared/protocol/result.js'
import { shardOf } from '../shared/protocol/shards.js'
import { mergeWorkers, type WorkerInfo } from '../shared/protocol/worker-info.js'
import { reaching } from '../shared/redis/connection.js'
import { errorEnd, type RequestLife } from '../shared/redis/request-life.js'
import type { WorkerRegistry } from '../shared/redis/worker-registry.js'
import { findUpNote } from '../shared/up-note.js'
import { CorpusWriter, type PutOptions } from './corpora/corpus-writer.js'
import { checkPassage, type Passage } from './corpora/passage-lines.js'
import { ProducerFleet } from './producer-fleet.js'
import { inWindow } from './stream.js'
import type { SubmitOptions, Submitted } from './submission.js'

export interface WaitOptions {
  /** Longest wait, or Infinity; default: the request's deadline, else the option `waitTimeoutMs`. */
  timeoutMs?: number | undefined
  /** Stops waiting; `rerank` also cancels the request, unless `leave` says otherwise. */
  signal?: AbortSignal | undefined
  /** A request whose wait was stopped goes on, and its result can be asked for later. */
  leave?: boolean | undefined
}

export interface SubmitSettings {
  /**
   * Up to which share of its bounds (`maxQueuedJobs`, `maxQueuedBytes`) the request may fill its lane, above 0 to 1: what a
   * flood leaves is for others. Default 1.
   */
  room?: number | undefined
}

export interface RerankAllOptions {
  /** Requests under way at once. Default 256. */
  window?: number | undefined
  signal?: AbortSignal | undefined
}

/** One answer of `rerankAll`: `error` where that request failed; the others go on. */
export type RerankOutcome =
  | { readonly id: string; readonly position: number; readonly result: RerankResult; readonly error?: undefined }
  | { readonly id: string; readonly position: number; readonly result?: undefined; readonly error: RankmillError }

export type RequestState = 'waiting' | 'running' | 'completed' | 'failed' | 'cancelled'

export interface RequestStatus {
  readonly id: string
  readonly state: RequestState
  readonly submittedAt: number
  readonly deadlineAt: number | null
  readonly pairs: number
  /** What serves it: its model, and what else it needs. */
  readonly needs: string
  /** Why nothing happens with it, where that is known: `no worker serves bge-m3`. */
  readonly waitingFor?: string
  readonly error?: ErrorBody
}

/** How long after its deadline a request is left to the workers to refuse, before the client does it. */
const DEADLINE_GRACE_MS = 250
/** How often `rerank` submits a request again that was lost on its way into the queue. */
const LOST_TRIES = 3
/** A wait is asked after so long whether anybody serves the request. */
const UNSERVED_LOOK_MS = 3000
/** Requests that are forgotten together, in one script: nobody else is served by Redis meanwhile. */
const FORGET_CHUNK = 64

/**
 * Sends rerank requests to workers through Redis and brings back their answers. Connects at the first call; two
 * connections a shard (commands, answers) serve any number of requests. Options: docs/configuration.md.
 */
export class RerankClient {
  readonly #options: Options
  readonly #schema: RequestSchema
  readonly #log: Logger
  readonly #closing = new AbortController()
  readonly #fleet: ProducerFleet

  /** @param options `model`: of requests that name none, instead of the fleet's default */
  constructor(options: OptionsInput = {}, parts: { log?: Logger } = {}) {
    this.#options = resolveOptions(options, process.env, findUpNote)
    this.#schema = requestSchema(this.options)
    this.#log = parts.log ?? makeLogger(this.options.logLevel, 'rankmill-client')
    const model = options.model ?? process.env[envOf('model')]
    this.#fleet = new ProducerFleet(this.options, model ? firstModel(model) : null, this.#log, this.#closing.signal)
  }

  /** As they were resolved. Not a field of its own: the URL of Redis may hold a password, and clients get logged. */
  get options(): Options {
    return this.#options
  }

  /**
   * Submits a request and waits for its result, documents best first. Without an id and a deadline it shares the job of a
   * request of the same content and priority that is under way already (option `shareIdentical`), in whatever process.
   *
   * @throws RankmillError: `invalid_request` and its kin at once; `timeout`, `deadline_exceeded`, `cancelled`, `overloaded`,
   *   `redis_unavailable`; or what the workers say of it
   */
  async rerank(input: RerankInput, wait: WaitOptions & SubmitSettings = {}): Promise<RerankResult> {
    const parsed = this.#parse(input)
    checkTimeout(wait)
    wait.signal?.throwIfAborted()
    const mayShare = this.options.shareIdentical && input.id === undefined && parsed.deadlineMs === null
    const { request, fingerprint } = mayShare ? await this.#besideItsLike(parsed) : { request: parsed }
    for (let tries = 1; ; tries++) {
      const { id, life } = await this.#submit(request, {
        mayShare,
        interest: 'waits',
        room: wait.room,
        ...(fingerprint ? { fingerprint } : {}),
      })
      try {
        return await this.#result(id, wait, request.deadlineMs)
      } catch (error) {
        const code = error instanceof RankmillError ? error.code : undefined
        // The content of one that was lost is here.
        if (code === 'request_lost' && tries < LOST_TRIES && !wait.signal?.aborted) continue
        const cancelled = wait.signal?.aborted === true && !wait.leave
        if (life !== null && (cancelled || code === 'deadline_exceeded')) {
          await this.#end(id, cancelled ? 'cancelled' : 'deadline_exceeded', life).catch(() => false)
        }
        throw error
      }
    }
  }

  /** Submits a request and returns its id; the same id with the same content is the same request. */
  async submit(input: RerankInput, { room }: SubmitSettings = {}): Promise<string> {
    const { id } = await this.#submit(this.#parse(input), { mayShare: false, interest: 'durable', room })
    return id
  }

  /**
   * Waits for the result of a submitted request.
   *
   * @throws RankmillError `not_found`, `timeout`, `invalid_request` (`timeoutMs`), or the error that the request ended with
   */
  async result(id: string, wait: WaitOptions = {}): Promise<RerankResult> {
    checkTimeout(wait)
    const part = await this.#fleet.at(id)
    const { redis, answers, keys } = part
    const answer = await reaching(() => answers.read(id))
    if (answer) return unpack(answer)
    if ((await reaching(() => redis.exists(keys.request(id)))) === 0) {
      if (await this.#fleet.isElsewhere(id, part)) return this.result(id, wait)
      throw unknownRequest(id)
    }
    return this.#result(id, wait, null)
  }

  /** @throws RankmillError `not_found` */
  async status(id: string): Promise<RequestStatus> {
    const part = await this.#fleet.at(id)
    const { answers, life, registry } = part
    const [outcome, note] = await reaching(() => Promise.all([answers.outcome(id), life.read(id)]))
    if (note === undefined) {
      if (await this.#fleet.isElsewhere(id, part)) return this.status(id)
      throw unknownRequest(id)
    }
    const { submittedAt, deadlineAt, pairs, pool, parts, waitingJobs } = note
    const known = { id, submittedAt, deadlineAt, pairs, needs: describePool(pool) }
    if (typeof outcome === 'object') {
      return { ...known, state: outcome.code === 'cancelled' ? 'cancelled' : 'failed', error: outcome }
    }
    if (outcome === 'completed') return { ...known, state: 'completed' }
    if (note.isAnswered) {
      const lost = new RankmillError('request_lost', `the answer to request "${id}" is gone from Redis`)
      return { ...known, state: 'failed', error: lost.toBody() }
    }
    if (waitingJobs < parts) return { ...known, state: 'running' }
    const isServed = (await reaching(() => registry.workers())).some((worker) => serves(worker, pool))
    return { ...known, state: 'waiting', ...(isServed ? {} : { waitingFor: unserved(pool) }) }
  }

  /**
   * Cancels a request: waiting jobs are removed, and workers drop the pairs of running ones.
   *
   * @returns false where it was answered before
   * @throws RankmillError `not_found`
   */
  async cancel(id: string): Promise<boolean> {
    return this.#end(id, 'cancelled')
  }

  /**
   * Reranks any number of requests with a bounded number under way; outcomes come as they are done. A full queue is
   * waited for, not reported.
   */
  async *rerankAll(
    requests: Iterable<RerankInput> | AsyncIterable<RerankInput>,
    { window = 256, signal }: RerankAllOptions = {},
  ): AsyncGenerator<RerankOutcome> {
    if (!Number.isInteger(window) || window < 1) {
      throw new RankmillError('invalid_request', `window: must be a whole number of at least 1, got ${window}`, {
        param: 'window',
      })
    }
    yield* inWindow(requests, window, async (input, position): Promise<RerankOutcome> => {
      // The id is drawn before anything can fail, so that every outcome has one; one that is no id is refused below.
      const given = (input as { id?: unknown } | null)?.id
      const id = typeof given === 'string' ? given : randomUUID()
      try {
        const result = await this.#untilTaken(
          () => this.rerank(typeof given === 'undefined' ? { ...input, id } : input, { signal }),
          signal,
        )
        return { id, position, result }
      } catch (error) {
        signal?.throwIfAborted()
        return { id, position, error: RankmillError.from(error) }
      }
    })
  }

  /**
   * Stores passages under ids, so that requests can say `documents: {corpus, ids}`; replaces those that are there. The
   * change is seen as a whole once it is complete. Any number of passages, in bounded memory.
   *
   * @throws RankmillError `invalid_request` or `document_too_long`, naming the passage; `redis_full`
   */
  async putCorpus(
    name: string,
    passages: AsyncIterable<Passage> | Iterable<Passage>,
    options: PutOptions = {},
  ): Promise<CorpusInfo> {
    const corpora = await this.#fleet.corporaNow()
    const checked = this.#checkedPassages(passages)
    const { redis, keys } = corpora.placeOf(name)
    return reaching(() => new CorpusWriter(redis, keys).put(name, checked, options))
  }

  /**
   * Keeps a version of a corpus for requests that name it (`documents: {corpus, version, ids}`), whatever becomes of the
   * corpus meanwhile; again, with the version, to keep it for longer.
   *
   * @param holder who needs it; one holder has one pin in a corpus, and finds it again after a restart
   * @param ttlMs the pin ends by itself after so long
   * @param version default: the holder's own as long as its pin lasts, else the current one
   * @returns the version
   * @throws RankmillError `unknown_corpus`, or `corpus_changed` where that version is not kept any more
   */
  async pinCorpus(name: string, holder: string, ttlMs: number, version?: string): Promise<string> {
    const corpora = await this.#fleet.corporaNow()
    return reaching(() => corpora.pin(name, holder, ttlMs, version))
  }

  /** Ends a pin; nothing happens where there is none. */
  async releaseCorpus(name: string, holder: string): Promise<void> {
    const corpora = await this.#fleet.corporaNow()
    await reaching(() => corpora.release(name, holder))
  }

  /**
   * Removes what Redis holds of answered requests: note, result, jobs that failed. Safe to repeat; ids that are unknown
   * or not answered yet are left alone.
   *
   * @returns how many were removed
   */
  async forget(ids: readonly string[]): Promise<number> {
    const parts = await this.#fleet.parts()
    let forgotten = 0
    for (const [index, { life, queues }] of parts.entries()) {
      const own = parts.length === 1 ? ids : ids.filter((id) => shardOf(id, parts.length) === index)
      for (let first = 0; first < own.length; first += FORGET_CHUNK) {
        const found = await reaching(async () => {
          const requests = await life.forget(own.slice(first, first + FORGET_CHUNK))
          await Promise.all(
            requests.map(async (request) => {
              // The only job of one that was done is gone already.
              if (request && (request.failed || request.place.parts > 1)) await queues.remove(request.id, request.place)
            }),
          )
          return requests
        })
        forgotten += found.filter((request) => request !== undefined).length
      }
    }
    return forgotten
  }

  /**
   * The live workers, as of their last heartbeat (every 2 s); a worker that died is gone from it after 6 s. Of several shards
   * one that answers is enough: workers are in all of them.
   */
  async workers(): Promise<WorkerInfo[]> {
    const told = await Promise.allSettled(
      (await this.#fleet.parts()).map(({ registry }) => reaching(() => registry.workers())),
    )
    const heard = told.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    const [failed] = told.flatMap((one) => (one.status === 'rejected' ? [one] : []))
    if (heard.length === 0 && failed) throw failed.reason
    return mergeWorkers(heard)
  }

  /** Ends every wait with `closed` and frees the connections; submitted requests go on without their caller. */
  async close(): Promise<void> {
    this.#closing.abort(new RankmillError('closed', 'the client was closed while it waited'))
    await this.#fleet.close()
  }

  async *#checkedPassages(passages: AsyncIterable<Passage> | Iterable<Passage>) {
    let place = 0
    for await (const passage of passages) {
      const source = `passages.${place++}`
      yield { ...checkPassage(passage, source, this.options), source }
    }
  }

  #parse(input: unknown): RerankRequest {
    return parseRequest(input, this.#schema, randomUUID)
  }

  #submit(request: RerankRequest, how: SubmitOptions): Promise<Submitted> {
    return this.#fleet.following(request.id, ({ submission }) => reaching(() => submission.submit(request, how)))
  }

  async #result(id: string, wait: WaitOptions, deadlineMs: number | null): Promise<RerankResult> {
    const { answers, life, registry } = await this.#fleet.at(id)
    const limitMs =
      wait.timeoutMs ?? (deadlineMs === null ? this.options.waitTimeoutMs : deadlineMs + DEADLINE_GRACE_MS)
    const late = () =>
      deadlineMs !== null && wait.timeoutMs === undefined
        ? new RankmillError('deadline_exceeded', `request "${id}" was not done within its deadline of ${deadlineMs} ms`)
        : new RankmillError(
            'timeout',
            `request "${id}" was not done within ${limitMs} ms; it goes on, and its result can be asked for`,
          )
    const stop = new AbortController()
    const letGo = [
      afterMs(limitMs, () => stop.abort(late())),
      follow(this.#closing.signal, stop),
      ...(wait.signal ? [follow(wait.signal, stop)] : []),
      afterMs(UNSERVED_LOOK_MS, () => void this.#warnIfUnserved(id, life, registry).catch(() => undefined)),
    ]
    try {
      return unpack(await answers.wait(id, stop.signal))
    } finally {
      for (const end of letGo) end()
    }
  }

  async #warnIfUnserved(id: string, life: RequestLife, registry: WorkerRegistry): Promise<void> {
    const [note, workers] = await Promise.all([life.read(id), registry.workers()])
    if (!note || note.waitingJobs < note.parts || workers.some((worker) => serves(worker, note.pool))) return
    this.#log.warn({ request: id, pool: note.pool }, `waiting: ${unserved(note.pool)}`)
  }

  /**
   * Ends a request by somebody's will, and takes its jobs out of the queue.
   *
   * @param givenUp the life of it that one counted on who wants it no more: only where it still has that one, and nobody
   *   else wants it
   */
  async #end(id: string, code: 'cancelled' | 'deadline_exceeded', givenUp?: number): Promise<boolean> {
    const part = await this.#fleet.at(id)
    const { redis, life, queues, keys } = part
    const corpora = await this.#fleet.corpora()
    const note = await reaching(() => life.read(id))
    if (note === undefined) {
      if (await this.#fleet.isElsewhere(id, part)) return this.#end(id, code, givenUp)
      throw unknownRequest(id)
    }
    if (givenUp !== undefined && givenUp !== note.life) return false
    const end = errorEnd({ code, message: endMessage(id, code) }, note.generation)
    const ref = { id, ...note }
    const { outcome } = await reaching(() => (givenUp === undefined ? life.answer(ref, end) : life.giveUp(ref, end)))
    if (outcome !== 'written') return false
    await reaching(() => redis.publish(keys.cancelChannel, `${note.generation} ${id}`))
    await reaching(() => queues.remove(id, note))
    if (note.corpus) await reaching(() => corpora.shortenPin(note.corpus, requestPin(id), note.resultTtlMs))
    return true
  }

  /** Calls again while the queue is full, after as long as the error says. */
  async #untilTaken<T>(call: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    for (;;) {
      try {
        return await call()
      } catch (error) {
        if (!(error instanceof RankmillError) || error.code !== 'overloaded') throw error
        const stop = new AbortController()
        const letGo = [follow(this.#closing.signal, stop), ...(signal ? [follow(signal, stop)] : [])]
        try {
          await pause(error.details.retryAfterMs ?? 1000, stop.signal)
        } finally {
          for (const end of letGo) end()
        }
      }
    }
  }

  /** A request whose id is its client's to choose goes where others of the same content go. */
  async #besideItsLike(request: RerankRequest): Promise<{ request: RerankRequest; fingerprint?: string }> {
    const beside = await this.#fleet.idBeside(() => fingerprintOf(request), randomUUID)
    if (!beside) return { request }
    return { request: { ...request, id: beside.id }, fingerprint: beside.fingerprint }
  }
}

function checkTimeout({ timeoutMs }: WaitOptions): void {
  if (timeoutMs === undefined || timeoutMs >= 0) return
  const message = `timeoutMs: must be at least 0 (Infinity is allowed), got ${timeoutMs}`
  throw new RankmillError('invalid_request', message, { param: 'timeoutMs' })
}

function unpack(answer: Answer): RerankResult {
  if ('error' in answer) throw RankmillError.fromBody(answer.error)
  return answer.result
}

function unknownRequest(id: string): RankmillError {
  return new RankmillError('not_found', `no request "${id}" is known`, { param: 'id' })
}

function endMessage(id: string, code: 'cancelled' | 'deadline_exceeded'): string {
  return code === 'cancelled' ? `request "${id}" was cancelled` : `request "${id}" was not done within its deadline`
}

function unserved(pool: string): string {
  return `no worker serves ${describePool(pool)}`
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeoutPromise(ms, undefined, { signal }).catch(() => signal.throwIfAborted())
}
