/**
 * A file of requests in, a file of answers out, through any crash. The output, and the folder beside it, are the truth
 * of what is done; Redis holds no more than what is under way.
 */
import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { compressionOf } from '../lines/compression.js'
import { Admission } from './admission.js'
import { type BatchReport, batchReport } from './batch-report.js'
import type { BatchItem, BatchOutcome, BatchSource } from './batch-source.js'
import { type BatchFormat, BatchState } from './batch-state.js'
import type { Delivery } from './delivery.js'
import type { PinnedModel } from './model-pins.js'
import type { InputFile } from './output-place.js'
import { answerOf, type BatchClient, endsRun } from './persistent-request.js'
import { type Answered, ReadyItems } from './ready-items.js'
import { withDefaults } from './request-defaults.js'
import { type RequestFields, type RunSettings, runSettings } from './run-settings.js'

export interface BatchOptions {
  readonly source: BatchSource
  /** A path, or a stream, which a later run cannot go on with. */
  readonly output: string | NodeJS.WritableStream
  readonly format: BatchFormat
  /** Answers in the order of the input; false: as they come. */
  readonly inOrder: boolean
  /** Files that the run reads, by path or number: none of them may be its output. */
  readonly inputs: readonly InputFile[]
  /** Fields of requests that do not give them. */
  readonly defaults: RequestFields
  /** What becomes of ids that a corpus lacks, where a request does not say. */
  readonly missing?: 'error' | 'skip' | undefined
  /** The run stops when more requests than this have failed. */
  readonly maxErrors: number
  /** Begins anew even where the output holds another run. */
  readonly overwrite: boolean
  /** Goes on with answers of another model than the run began with; false: the run ends. */
  readonly allowModelChange: boolean
  /** Goes on with the current version of a corpus where the run's own is gone; false: the run ends. */
  readonly allowCorpusChange: boolean
  /** What else the output depends on, so that a later run with others is refused: how answers are written. */
  readonly settings: RunSettings
  readonly limits: Options
  /** What is made of the answers of the finished run; default: nothing, they are the output. */
  readonly delivery?: Delivery | undefined
  /** What a run that begins is kept to; default: what it meets first. */
  readonly pins?: {
    readonly models: Readonly<Record<string, PinnedModel>>
    readonly corpora: Readonly<Record<string, string>>
  }
}

export interface BatchProgress {
  readonly requests: number
  readonly failed: number
  readonly pairs: number
  readonly cached: number
  readonly inFlight: number
  readonly window: number
  /** Why nothing can be sent just now: Redis is away, or the queue is full. */
  readonly waitingFor: string | undefined
  /** Of the input that is done, 0 to 1; undefined where its size is not known. */
  readonly share: number | undefined
}

/** Jobs in the queue for each that a worker holds: enough that none waits for the next. */
const QUEUED_FOR_HELD = 3
const SMALLEST_WINDOW = 32
const FOLLOW_MS = 2000
/** Answers that come within so long are written together: each write asks who holds the output, which costs like a request. */
const GATHER_MS = 5
/** Changes of a corpus in a row that one request follows. */
const CORPUS_TRIES = 3
/** A request that could not be sent says so each half a second. */
const AWAY_SHOWN_MS = 4000

export class BatchRun {
  readonly #options: BatchOptions
  readonly #state: BatchState
  readonly #admission: Admission
  readonly #ready: ReadyItems
  /** Ends reading; what is under way is finished. */
  readonly #stopping = new AbortController()
  /** Ends waiting for answers, too. */
  readonly #aborting = new AbortController()
  #failure: RankmillError | undefined
  #away: { error: RankmillError; at: number } | undefined
  #woken = false
  #wake: () => void = () => undefined

  /**
   * Takes the output: nobody else writes it until the run ends or is closed. Nothing is written before `run`, but what is to
   * be made of a finished run's answers and is not there.
   *
   * @throws RankmillError `output_exists`, `output_in_use`, `output_changed`, `output_unwritable`, `input_unreadable`
   */
  static async open(options: BatchOptions): Promise<BatchRun> {
    const { source, output, format, limits } = options
    const state = await BatchState.open(source, output, format, {
      pins: { models: {}, corpora: {} },
      ...options,
      leaseMs: limits.leaseMs,
      corpusPinMs: limits.corpusPinMs,
      settings: settingsOf(options),
    })
    const run = new BatchRun(options, state)
    // It may have been killed before that, or what was made been taken away.
    if (run.wasFinished) await run.#deliver()
    return run
  }

  private constructor(options: BatchOptions, state: BatchState) {
    this.#options = options
    this.#state = state
    this.#admission = new Admission(SMALLEST_WINDOW, options.limits.maxWindowBytes)
    this.#ready = new ReadyItems(options.inOrder)
    // Every request under way listens, and lets go when it ends.
    setMaxListeners(0, this.#aborting.signal)
  }

  /** An earlier run came to the end of the input: there is nothing left to do. */
  get wasFinished(): boolean {
    return this.#state.wasFinished
  }

  /**
   * Runs to the end of the input, or until it is stopped. Opened again on the same input and output, it goes on.
   *
   * @throws RankmillError `output_in_use`, `output_changed`, `output_unwritable`, `input_unreadable`, `too_many_errors`,
   *   `model_changed`, `corpus_changed`, `redis_denied`, `redis_misconfigured`
   */
  async run(client: BatchClient): Promise<BatchReport> {
    try {
      if (!this.wasFinished) await this.#work(client)
      if (this.#failure) throw this.#failure
      if (!this.wasFinished && this.#state.isFinished) await this.#deliver()
    } finally {
      await this.close()
    }
    return this.report()
  }

  /** What was done so far. */
  report(): BatchReport {
    return batchReport(this.#state)
  }

  /** What its answers are from. */
  get modelPins(): Record<string, PinnedModel> {
    return this.#state.models.toJSON()
  }

  /** Answers that the output has. */
  get answered(): number {
    return this.#state.counts.totals.requests
  }

  /** Lets go of the output. */
  async close(): Promise<void> {
    await this.#state.close()
  }

  /** Reads no more, finishes what is under way and writes it. */
  stop(): void {
    this.#stopping.abort()
    this.#admission.close()
    this.#wakeWriter()
  }

  /** Stops without waiting for what is under way: a later run fetches it. */
  abort(): void {
    this.#aborting.abort(new RankmillError('closed', 'the run was stopped'))
    this.stop()
  }

  progress(): BatchProgress {
    const { source } = this.#options
    const { totals } = this.#state.counts
    return {
      requests: totals.requests,
      failed: totals.failed,
      pairs: totals.pairs,
      cached: totals.cached,
      inFlight: this.#admission.requests,
      window: this.#admission.limit,
      waitingFor:
        this.#away && performance.now() - this.#away.at < AWAY_SHOWN_MS ? this.#away.error.message : undefined,
      share: source.shareBefore(this.#state.done.mark.offset),
    }
  }

  async #deliver(): Promise<void> {
    if (this.#options.delivery) await this.#state.deliver(this.#options.delivery)
  }

  async #work(client: BatchClient): Promise<void> {
    await this.#state.pins.resume(client)
    await this.#state.begin()
    const over = new AbortController()
    const following = this.#followWorkers(client, over.signal)
    const reading = this.#read(client).catch((error) => {
      this.#failure ??= RankmillError.from(error)
      this.stop()
      return false
    })
    try {
      await this.#write(client, reading)
    } catch (error) {
      this.#failure = RankmillError.from(error)
      this.abort()
    } finally {
      over.abort()
      await following
      await this.#lookAtWorkers(client)
    }
  }

  /** @returns whether the whole input was read */
  async #read(client: BatchClient): Promise<boolean> {
    const state = this.#state
    for await (const item of this.#options.source.read(state.done.mark)) {
      const { customId } = item
      const isNewId = state.meet(customId)
      if (state.done.begin(item)) {
        if (isNewId && customId !== null) state.keepId(customId)
        continue
      }
      if (!(await this.#admission.enter(item.bytes))) return false
      const settle = this.#ready.reserve()
      const answering = isNewId ? this.#answer(client, item) : Promise.resolve({ item, outcome: duplicate(item) })
      answering.then(
        (answered) => {
          settle(answered)
          this.#wakeWriter()
        },
        // Stopped at once: the item stays undone.
        () => this.#wakeWriter(),
      )
    }
    return !this.#stopping.signal.aborted
  }

  async #answer(client: BatchClient, item: BatchItem): Promise<Answered> {
    if (item.error) return { item, outcome: { error: item.error } }
    const { defaults, missing } = this.#options
    const filled = withDefaults(item.request, defaults, missing)
    for (let tries = 1; ; tries++) {
      const requestId = this.#state.requestId(item.line)
      try {
        const result = await this.#sameModel(client, { ...filled, id: requestId })
        return { item, outcome: { result }, requestId }
      } catch (error) {
        this.#aborting.signal.throwIfAborted()
        if (this.#survives(filled, error) && tries < CORPUS_TRIES) continue
        const failure = RankmillError.from(error)
        if (endsRun(failure)) return this.#fail(failure)
        return { item, outcome: { error: failure }, requestId }
      }
    }
  }

  /**
   * An answer of the model that the run began with. One that is not may have been waiting in Redis since the workers had
   * another: it is asked for again, once.
   */
  async #sameModel(client: BatchClient, request: RerankInput & { id: string }): Promise<RerankResult> {
    const ask = () =>
      answerOf(client, request, this.#state.pins, this.#options.limits.resubmitMs, this.#aborting.signal, (error) => {
        this.#away = { error, at: performance.now() }
      })
    const result = await ask()
    try {
      this.#state.models.check(result)
      return result
    } catch {
      // Where it cannot be forgotten just now, it comes again, and ends the run.
      await client.forget([request.id]).catch(() => undefined)
    }
    const again = await ask()
    try {
      this.#state.models.check(again)
      return again
    } catch (error) {
      await client.forget([request.id]).catch(() => undefined)
      return this.#fail(error)
    }
  }

  /** Whether a failure is none of the request's own, and trying it again helps. */
  #survives(request: RerankInput, error: unknown): boolean {
    try {
      return this.#state.pins.survives(request, error)
    } catch (lost) {
      return this.#fail(lost)
    }
  }

  /** Ends the run: what is under way is left to a later one. */
  #fail(error: unknown): never {
    this.#failure ??= RankmillError.from(error)
    this.abort()
    throw this.#failure
  }

  /** Writes answers as they become ready, until the last one is written or nothing more will come. */
  async #write(client: BatchClient, reading: Promise<boolean>): Promise<void> {
    const state = this.#state
    let isRead = false
    let readAll = false
    void reading.then((all) => {
      isRead = true
      readAll = all
      this.#wakeWriter()
    })
    let checkpointAt = performance.now()
    let appendedAt = Number.NEGATIVE_INFINITY
    const written: string[] = []
    for (;;) {
      const answers = this.#ready.take()
      if (answers.length > 0) appendedAt = performance.now()
      await state.append(answers)
      for (const { item, requestId } of answers) {
        if (requestId !== undefined) written.push(requestId)
        this.#admission.leave(item.bytes)
      }
      this.#stopAtTooManyErrors()
      const mayCome = !isRead && !this.#stopping.signal.aborted
      const isOver = !mayCome && (this.#admission.requests === 0 || this.#aborting.signal.aborted)
      if (isOver || (written.length > 0 && performance.now() - checkpointAt >= this.#options.limits.checkpointMs)) {
        await state.checkpoint(readAll && this.#admission.requests === 0)
        checkpointAt = performance.now()
        // Should Redis be away now, what it keeps of them expires by itself.
        await client.forget(written.splice(0)).catch(() => undefined)
      }
      if (isOver) break
      await this.#untilWoken()
      const restMs = appendedAt + GATHER_MS - performance.now()
      if (restMs > 0) await delay(restMs)
    }
    if (readAll && this.#admission.requests === 0) await state.pins.release(client)
  }

  #wakeWriter(): void {
    this.#woken = true
    this.#wake()
  }

  async #untilWoken(): Promise<void> {
    if (!this.#woken) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.#options.limits.checkpointMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    this.#woken = false
  }

  #stopAtTooManyErrors(): void {
    const { maxErrors } = this.#options
    const { totals } = this.#state.counts
    if (totals.failed <= maxErrors || this.#failure) return
    const message = `${totals.failed} requests failed, more than --max-errors ${maxErrors}`
    this.#failure = new RankmillError('too_many_errors', message)
    this.stop()
  }

  /** undefined where Redis is away. */
  async #lookAtWorkers(client: BatchClient) {
    const workers = await client.workers().catch(() => undefined)
    this.#state.sawLoaded(workers?.flatMap(({ loaded }) => loaded) ?? [])
    return workers
  }

  /** Every run keeps the same number of requests for each that the workers hold, so that runs share them evenly. */
  async #followWorkers(client: BatchClient, over: AbortSignal): Promise<void> {
    const { maxWindowRequests, corpusPinMs } = this.#options.limits
    let pinnedAt = performance.now()
    while (!over.aborted) {
      // Nothing may be ready to be written for long: whoever lost the output should know, and leave the queue to others.
      await this.#state.check().catch((error) => {
        this.#failure ??= RankmillError.from(error)
        this.abort()
      })
      if (performance.now() - pinnedAt > corpusPinMs / 4) {
        await this.#state.pins.renew(client)
        pinnedAt = performance.now()
      }
      const workers = await this.#lookAtWorkers(client)
      if (workers) {
        const appetite = workers.reduce((sum, worker) => sum + worker.appetite, 0)
        this.#admission.limit = Math.min(maxWindowRequests, Math.max(SMALLEST_WINDOW, QUEUED_FOR_HELD * appetite))
      }
      await delay(FOLLOW_MS, undefined, { signal: over }).catch(() => undefined)
    }
  }
}

/** Everything that an output depends on beyond the input. */
export function settingsOf({ output, inOrder, missing, settings, defaults, limits }: BatchOptions): RunSettings {
  const compression = typeof output === 'string' ? compressionOf(output) : undefined
  return runSettings({ inOrder, missing, compression, ...settings }, defaults, limits)
}

function duplicate(item: BatchItem): BatchOutcome {
  const message = `custom_id: ${JSON.stringify(item.customId)} was used by an earlier line`
  return { error: new RankmillError('duplicate_custom_id', message, { param: 'custom_id' }) }
}
