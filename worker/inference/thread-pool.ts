/** The engine: inference threads with one session each, and the shape of the batches they are best fed with. */
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Model } from '../model/model.js'
import { chooseShape, type StartThreads } from './calibration.js'
import type { Batch, BatchOutput, BatchShape, EngineOptions, InferenceEngine } from './engine.js'
import { SessionThread } from './session-thread.js'

/**
 * Starts the inference threads: loads the model in each, warms them up, and measures the batch shape where it is neither
 * given nor known from an earlier start.
 *
 * @throws RankmillError `invalid_configuration` (options that cannot go together, a device that is not there),
 *   `invalid_model`, `out_of_memory`
 */
export async function createEngine(model: Model | BiEncoderModel, options: EngineOptions): Promise<InferenceEngine> {
  const start: StartThreads = async ({ sessions, threadsPerSession }) => {
    const data = { model, device: options.device, threads: threadsPerSession }
    const starts = await Promise.allSettled(
      Array.from({ length: sessions }, () => SessionThread.start(data, options.log)),
    )
    const started = starts.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const failed = starts.find((result) => result.status === 'rejected')
    if (!failed) return started
    await Promise.all(started.map((thread) => thread.close()))
    throw RankmillError.from(failed.reason)
  }
  const { shape, threads } = await chooseShape(model, options, start)
  return new ThreadPool(shape, threads)
}

class ThreadPool implements InferenceEngine {
  readonly shape: BatchShape
  readonly #threads: readonly SessionThread[]
  #askedAt = performance.now()

  constructor(shape: BatchShape, threads: readonly SessionThread[]) {
    this.shape = shape
    this.#threads = threads
    for (const thread of threads) thread.takeBusyMs(this.#askedAt)
  }

  get sessions(): number {
    return this.#threads.length
  }

  get slots(): number {
    return this.#threads.length * 2
  }

  run(batch: Batch): Promise<BatchOutput> {
    const thread = this.#leastBusy()
    if (!thread) return Promise.reject(new RankmillError('closed', 'there are no inference threads'))
    return thread.run(batch)
  }

  busyRatio(): number {
    const now = performance.now()
    const busyMs = this.#threads.reduce((sum, thread) => sum + thread.takeBusyMs(now), 0)
    const spanMs = (now - this.#askedAt) * this.#threads.length
    this.#askedAt = now
    return spanMs > 0 ? Math.min(1, busyMs / spanMs) : 0
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()))
  }

  /** Fewest batches first; a thread that is being replaced only where all are. */
  #leastBusy(): SessionThread | undefined {
    const cost = (thread: SessionThread) => thread.depth + (thread.ready ? 0 : 1000)
    return this.#threads.reduce<SessionThread | undefined>(
      (best, t) => (best && cost(best) <= cost(t) ? best : t),
      undefined,
    )
  }
}
