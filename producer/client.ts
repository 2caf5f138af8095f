/** The client library: what producers call. */
import { randomUUID } from 'node:crypto'
import { setTimeout as setTimeoutPromise } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { Corpora, type CorpusInfo } from '../shared/corpus/corpora.js'
import { type ErrorBody, RankmillError } from '../shared/errors.js'
import { closeAll, follow } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import { afterMs } from '../shared/long-timer.js'
import { type Options, type OptionsInput, resolveOptions } from '../shared/options.js'
import type { Answer } from '../shared/protocol/job.js'
import { type Keys, keysOf } from '../shared/protocol/keys.js'
import {
  parseRequest,
  type RequestSchema,
  type RerankInput,
  type RerankRequest,
  requestSchema,
} from '../shared/protocol/request.js'
import type { RerankResult } from '../shared/protocol/result.js'
import type { WorkerInfo } from '../shared/protocol/worker-info.js'
import { connectProducer, reaching } from '../shared/redis/connection.js'
import { LaneQueues } from '../shared/redis/lane-queues.js'
import { Scripts } from '../shared/redis/scripts.js'
import { findUpNote } from '../shared/up-note.js'
import { Answers } from './answers.js'
import { CorpusWriter, type PutOptions } from './corpora/corpus-writer.js'
import { checkPassage, type Passage } from './corpora/passage-lines.js'
import { inWindow } from './stream.js'
import { type RequestMeta, Submission } from './submission.js'

export interface WaitOptions {
  /** Longest wait, or Infinity; default: the request's deadline, else the option `waitTimeoutMs`. */
  timeoutMs?: number | undefined
  /** Stops waiting; `rerank` also cancels the request, unless `leave` says otherwise. */
  signal?: AbortSignal | undefined
  /** A request whose wait was stopped goes on, and its result can be asked for later. */
  leave?: boolean | undefined
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
  readonly error?: ErrorBody
}

/** How long after its deadline a request is left to the workers to refuse, before the client does it. */
const DEADLINE_GRACE_MS = 250
/** How an answer begins that is an error. */
const ERROR_HEAD = '{"error":'
/** Requests that are forgotten together: bounds what is under way on the connection. */
const FORGET_CHUNK = 64

interface Connected {
  readonly redis: Redis
  readonly queues: LaneQueues
  readonly scripts: Scripts
  readonly submission: Submission
  readonly answers: Answers
}

/**
 * Sends rerank requests to workers through Redis and brings back their answers. Connects at the first call; two
 * connections (commands, answers) serve any number of requests. Options: docs/configuration.md.
 */
export class RerankClient {
  readonly options: Options
  readonly #schema: RequestSchema
  readonly #keys: Keys
  readonly #log: Logger
  readonly #now: () => number
  readonly #closing = new AbortController()
  #connected: Promise<Connected> | undefined

  constructor(options: OptionsInput = {}, parts: { now?: () => number; log?: Logger } = {}) {
    this.options = resolveOptions(options, process.env, findUpNote)
    this.#schema = requestSchema(this.options)
    this.#keys = keysOf(this.options.prefix, this.options.queue)
    this.#log = parts.log ?? makeLogger(this.options.logLevel, 'rankmill-client')
    this.#now = parts.now ?? Date.now
  }

  /**
   * Submits a request and waits for its result, documents best first. Without an id and a deadline it shares the job of a
   * request of the same content and priority that is under way already (option `shareIdentical`), in whatever process.
   *
   * @throws RankmillError: `invalid_request` and its kin at once; `timeout`, `deadline_exceeded`, `cancelled`, `overloaded`,
   *   `redis_unavailable`; or what the workers say of it
   */
  async rerank(input: RerankInput, wait: WaitOptions = {}): Promise<RerankResult> {
    const request = this.#parse(input)
    checkTimeout(wait)
    wait.signal?.throwIfAborted()
    const mayShare = this.options.shareIdentical && input.id === undefined && request.deadlineMs === null
    const id = await this.#submit(request, mayShare)
    try {
      return await this.#result(id, wait, request.deadlineMs)
    } catch (error) {
      const unwanted =
        (wait.signal?.aborted && !wait.leave) || (error instanceof RankmillError && error.code === 'deadline_exceeded')
      if (unwanted && !(await this.#othersWait(id)))
        await this.#giveUp(id, wait.signal?.aborted ? 'cancelled' : 'deadline_exceeded').catch(() => false)
      throw error
    }
  }

  /** Submits a request and returns its id; the same id with the same content is the same request. */
  async submit(input: RerankInput): Promise<string> {
    return this.#submit(this.#parse(input))
  }

  /**
   * Waits for the result of a submitted request.
   *
   * @throws RankmillError `not_found`, `timeout`, `invalid_request` (`timeoutMs`), or the error that the request ended with
   */
  async result(id: string, wait: WaitOptions = {}): Promise<RerankResult> {
    checkTimeout(wait)
    const { redis, answers } = await this.#connect()
    const answer = await reaching(() => answers.read(id))
    if (answer) return unpack(answer)
    if ((await reaching(() => redis.exists(this.#keys.request(id)))) === 0) throw unknownRequest(id)
    return this.#result(id, wait, null)
  }

  /** @throws RankmillError `not_found` */
  async status(id: string): Promise<RequestStatus> {
    const { redis, answers, submission } = await this.#connect()
    const [answer, meta] = await reaching(() =>
      Promise.all([answers.read(id), redis.hget(this.#keys.request(id), 'meta')]),
    )
    if (meta === null) throw unknownRequest(id)
    const request = JSON.parse(meta) as RequestMeta
    const { parts, pairs, submittedAt, deadlineAt } = request
    const known = { id, submittedAt, deadlineAt, pairs }
    if (answer && 'error' in answer) {
      return { ...known, state: answer.error.code === 'cancelled' ? 'cancelled' : 'failed', error: answer.error }
    }
    if (answer) return { ...known, state: 'completed' }
    const states = await Promise.all((await submission.jobs(id, request)).map((job) => job.getState()))
    const untouched = states.length === parts && states.every((s) => s === 'waiting' || s === 'prioritized')
    return { ...known, state: untouched ? 'waiting' : 'running' }
  }

  /**
   * Cancels a request: waiting jobs are removed, and workers drop the pairs of running ones.
   *
   * @returns false where it was answered before
   * @throws RankmillError `not_found`
   */
  async cancel(id: string): Promise<boolean> {
    return this.#giveUp(id, 'cancelled')
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
    const { redis } = await this.#connect()
    const checked = this.#checkedPassages(passages)
    return reaching(() => new CorpusWriter(redis, this.#keys).put(name, checked, options))
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
    const { redis } = await this.#connect()
    return reaching(() => new Corpora(redis, this.#keys).pin(name, holder, ttlMs, version))
  }

  /** Ends a pin; nothing happens where there is none. */
  async releaseCorpus(name: string, holder: string): Promise<void> {
    const { redis } = await this.#connect()
    await reaching(() => new Corpora(redis, this.#keys).release(name, holder))
  }

  /**
   * Removes what Redis holds of answered requests: note, result, jobs that failed. Safe to repeat; ids that are unknown
   * or not answered yet are left alone.
   *
   * @returns how many were removed
   */
  async forget(ids: readonly string[]): Promise<number> {
    const { redis, submission } = await this.#connect()
    let forgotten = 0
    for (let i = 0; i < ids.length; i += FORGET_CHUNK) {
      const chunk = ids.slice(i, i + FORGET_CHUNK)
      const answered = await reaching(() =>
        Promise.all(
          chunk.map(async (id) => {
            const head = redis.getrange(this.#keys.result(id), 0, ERROR_HEAD.length - 1)
            const [meta, answer] = await Promise.all([redis.hget(this.#keys.request(id), 'meta'), head])
            if (meta === null || answer === '') return undefined
            return { id, failed: answer === ERROR_HEAD, ...(JSON.parse(meta) as RequestMeta) }
          }),
        ),
      )
      const found = answered.filter((request) => request !== undefined)
      // Jobs that were done are gone already.
      const failed = found.filter((request) => request.failed)
      await reaching(() => Promise.all(failed.map(({ id, lane, parts }) => submission.removeJobs(id, lane, parts))))
      const keys = found.flatMap(({ id }) => [this.#keys.request(id), this.#keys.result(id), this.#keys.parts(id)])
      if (keys.length > 0) await reaching(() => redis.unlink(keys))
      forgotten += found.length
    }
    return forgotten
  }

  /** The live workers, as of their last heartbeat (every 5 s); a worker that died is gone from it after 15 s. */
  async workers(): Promise<WorkerInfo[]> {
    const { scripts } = await this.#connect()
    return reaching(() => scripts.workers())
  }

  /** Ends every wait with `closed` and frees the connections; submitted requests go on without their caller. */
  async close(): Promise<void> {
    this.#closing.abort(new RankmillError('closed', 'the client was closed while it waited'))
    const connected = await this.#connected?.catch(() => undefined)
    this.#connected = undefined
    if (!connected) return
    const { answers, queues, redis } = connected
    await closeAll([
      { name: 'answers', close: () => answers.close() },
      { name: 'queues', close: () => queues.close() },
      { name: 'redis', close: () => redis.disconnect() },
    ])
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

  async #submit(request: RerankRequest, mayShare = false): Promise<string> {
    const { submission } = await this.#connect()
    return reaching(() => submission.submit(request, mayShare))
  }

  /** Takes one off those that wait for a request. What cannot be told is left to run. */
  async #othersWait(id: string): Promise<boolean> {
    const { scripts } = await this.#connect()
    return scripts.leave(id).catch(() => true)
  }

  async #result(id: string, wait: WaitOptions, deadlineMs: number | null): Promise<RerankResult> {
    const { answers } = await this.#connect()
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
    ]
    try {
      return unpack(await answers.wait(id, stop.signal))
    } finally {
      for (const end of letGo) end()
    }
  }

  async #giveUp(id: string, code: 'cancelled' | 'deadline_exceeded'): Promise<boolean> {
    const { redis, scripts, submission } = await this.#connect()
    const meta = await reaching(() => redis.hget(this.#keys.request(id), 'meta'))
    if (meta === null) throw unknownRequest(id)
    const message =
      code === 'cancelled' ? `request "${id}" was cancelled` : `request "${id}" was not done within its deadline`
    const answer = JSON.stringify({ error: { code, message } } satisfies Answer)
    const first = await reaching(() => scripts.answer(id, answer, this.options.resultTtlMs))
    if (first) {
      await reaching(() => redis.publish(this.#keys.cancelChannel, id))
      const { lane, parts } = JSON.parse(meta) as RequestMeta
      await submission.removeJobs(id, lane, parts)
    }
    return first
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

  #connect(): Promise<Connected> {
    this.#closing.signal.throwIfAborted()
    this.#connected ??= this.#open()
    // A client that could not connect tries again at the next call.
    this.#connected.catch(() => {
      this.#connected = undefined
    })
    return this.#connected
  }

  async #open(): Promise<Connected> {
    const { redis: url, pollIntervalMs, commandTimeoutMs } = this.options
    const redis = await connectProducer(url, commandTimeoutMs)
    const queues = new LaneQueues(redis, this.#keys)
    const scripts = new Scripts(redis, this.#keys)
    const submission = new Submission(queues, scripts, this.options, this.#now)
    return { redis, queues, scripts, submission, answers: new Answers(redis, this.#keys, pollIntervalMs, this.#log) }
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

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeoutPromise(ms, undefined, { signal }).catch(() => signal.throwIfAborted())
}
