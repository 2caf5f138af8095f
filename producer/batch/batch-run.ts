/**
 * A file of requests in, a file of answers out, through any crash. The output, and the folder beside it, are the truth
 * of what is done; Redis holds no more than what is under way.
 */
import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { Admission } from './admission.js'
import { type BatchReport, batchReport } from './batch-report.js'
import type { BatchItem, BatchOutcome, BatchSource } from './batch-source.js'
import { type BatchFormat, BatchState } from './batch-state.js'
import { answerOf, type BatchClient, endsRun } from './persistent-request.js'
import { ReadyItems } from './ready-items.js'
import { withDefaults } from './request-defaults.js'

export interface BatchOptions {
  readonly source: BatchSource
  /** A path, or a stream, which a later run cannot go on with. */
  readonly output: string | NodeJS.WritableStream
  readonly format: BatchFormat
  /** Answers in the order of the input; false: as they come. */
  readonly inOrder: boolean
  /** Fields of requests that do not give them. */
  readonly defaults: Partial<RerankInput>
  /** What becomes of ids that a corpus lacks, where a request does not say. */
  readonly missing?: 'error' | 'skip' | undefined
  /** The run stops when more requests than this have failed. */
  readonly maxErrors: number
  /** Begins anew even where the output holds another run. */
  readonly overwrite: boolean
  /** Everything else that the output depends on, so that a later run with others is refused. */
  readonly settings: Record<string, unknown>
  readonly limits: Pick<
    Options,
    'maxWindowRequests' | 'maxWindowBytes' | 'checkpointMs' | 'leaseMs' | 'resubmitMs' | 'corpusPinMs'
  >
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
/** A request that could not be sent says so each half a second. */
const AWAY_SHOWN_MS = 2000

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
   * Takes the output: nobody else writes it until the run ends or is closed.
   *
   * @throws RankmillError `output_exists`, `output_in_use`, `output_unwritable`, `input_unreadable`
   */
  static async open(options: BatchOptions): Promise<BatchRun> {
    const { source, output, format, settings, inOrder, overwrite, limits } = options
    const state = await BatchState.open(source, output, format, {
      overwrite,
      leaseMs: limits.leaseMs,
      corpusPinMs: limits.corpusPinMs,
      settings: { inOrder, ...settings },
    })
    return new BatchRun(options, state)
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
   * @throws RankmillError `output_in_use`, `output_unwritable`, `input_unreadable`, `too_many_errors`, `redis_denied`,
   *   `redis_misconfigured`
   */
  async run(client: BatchClient): Promise<BatchReport> {
    try {
      if (!this.wasFinished) await this.#work(client)
    } finally {
      await this.close()
    }
    if (this.#failure) throw this.#failure
    return this.report()
  }

  /** What was done so far. */
  report(): BatchReport {
    return batchReport(this.#state, this.#stopping.signal.aborted ? 'interrupted' : 'finished')
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
    const { totals } = this.#state
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

  async #work(client: BatchClient): Promise<void> {
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
      const isNewId = item.customId === null || state.customIds.add(item.customId)
      if (state.done.begin(item)) continue
      if (!(await this.#admission.enter(item.bytes))) return false
      const settle = this.#ready.reserve()
      const outcome = isNewId ? this.#answer(client, item) : Promise.resolve(duplicate(item))
      outcome.then(
        (outcome) => {
          settle({ item, outcome })
          this.#wakeWriter()
        },
        // Stopped at once: the item stays undone.
        () => this.#wakeWriter(),
      )
    }
    return !this.#stopping.signal.aborted
  }

  async #answer(client: BatchClient, item: BatchItem): Promise<BatchOutcome> {
    if (item.error) return { error: item.error }
    const { defaults, missing, limits } = this.#options
    const request = { ...withDefaults(item.request, defaults, missing), id: requestId(this.#state.runId, item) }
    try {
      return {
        result: await answerOf(client, request, this.#state.pins, limits.resubmitMs, this.#aborting.signal, (away) => {
          this.#away = { error: away, at: performance.now() }
        }),
      }
    } catch (error) {
      this.#aborting.signal.throwIfAborted()
      const failure = RankmillError.from(error)
      if (!endsRun(failure)) return { error: failure }
      this.#failure ??= failure
      this.abort()
      throw failure
    }
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
    const written: string[] = []
    for (;;) {
      const answers = this.#ready.take()
      await state.append(answers)
      for (const { item } of answers) {
        written.push(requestId(state.runId, item))
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
    const { totals } = this.#state
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

function requestId(runId: string, item: BatchItem): string {
  return `${runId}-${item.line}`
}

function duplicate(item: BatchItem): BatchOutcome {
  const message = `custom_id: ${JSON.stringify(item.customId)} was used by an earlier line`
  return { error: new RankmillError('duplicate_custom_id', message, { param: 'custom_id' }) }
}
