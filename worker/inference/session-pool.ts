/** The engine: inference processes with one session each, and the shape of the batches they are best fed with. */
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Device, Model } from '../model/model.js'
import { checkAgreement } from './agreement.js'
import { chooseShape, type StartSessions } from './calibration.js'
import type { Batch, BatchOutput, BatchShape, EngineOptions, InferenceEngine } from './engine.js'
import { outdateShape } from './kept-shape.js'
import { ObservedSpeed } from './observed-speed.js'
import { SessionProcess } from './session-process.js'

/**
 * Starts the inference processes: loads the model in each, warms them up, and measures the batch shape where it is neither
 * given nor known from an earlier start.
 *
 * @throws RankmillError `invalid_configuration` (options that cannot go together, a device that is not there or scores otherwise than the CPU),
 *   `invalid_model`, `out_of_memory`
 */
export async function createEngine(model: Model | BiEncoderModel, options: EngineOptions): Promise<InferenceEngine> {
  const start: StartSessions = async ({ sessions, threadsPerSession }) => {
    const { device, callTimeoutMs, prefixCacheBytes = 0 } = options
    const settings = { model, device, threads: threadsPerSession, callTimeoutMs, prefixCacheBytes }
    const starts = await Promise.allSettled(
      Array.from({ length: sessions }, () => SessionProcess.start(settings, options.log)),
    )
    const started = starts.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const failed = starts.find((result) => result.status === 'rejected')
    if (!failed) return started
    await Promise.all(started.map((session) => session.close()))
    throw RankmillError.from(failed.reason)
  }
  const { shape, sessions, measured } = await chooseShape(model, options, start)
  const { device } = options
  const [first] = sessions
  if (device !== 'cpu' && first) {
    await checkAgreement(model, first, options).catch(async (error) => {
      await Promise.all(sessions.map((session) => session.close()))
      throw error
    })
  }
  if (!measured) return new SessionPool(shape, sessions, device)
  const speed = new ObservedSpeed(measured.tokensPerSecond, shape)
  return new SessionPool(shape, sessions, device, speed, async () => {
    const [found, was] = [Math.round(speed.tokensPerSecond), measured.tokensPerSecond]
    options.log.info({ found, was }, 'faster than the batch shape was measured: the next start measures it anew')
    await outdateShape(measured.file)
  })
}

class SessionPool implements InferenceEngine {
  readonly shape: BatchShape
  readonly device: Device
  readonly #sessions: readonly SessionProcess[]
  #askedAt = performance.now()

  /** Of real calls, until they have shown that calibration was wrong. */
  #speed: ObservedSpeed | undefined
  readonly #onFaster: () => Promise<void>

  constructor(
    shape: BatchShape,
    sessions: readonly SessionProcess[],
    device: Device,
    speed?: ObservedSpeed,
    onFaster = async () => {},
  ) {
    this.shape = shape
    this.device = device
    this.#speed = speed
    this.#onFaster = onFaster
    this.#sessions = sessions
    for (const session of sessions) session.takeBusyMs(this.#askedAt)
  }

  get sessions(): number {
    return this.#sessions.length
  }

  get slots(): number {
    return this.#sessions.length * 2
  }

  get keptTokens(): number {
    return Math.min(...this.#sessions.map((session) => session.keptTokens))
  }

  run(batch: Batch): Promise<BatchOutput> {
    const session = this.#leastBusy()
    if (!session) return Promise.reject(new RankmillError('closed', 'there are no inference processes'))
    const running = session.run(batch)
    return this.#speed ? running.then((output) => this.#observed(batch, output)) : running
  }

  #observed(batch: Batch, output: BatchOutput): BatchOutput {
    this.#speed?.add(batch, output.inferenceMs)
    if (!this.#speed?.isFaster) return output
    this.#speed = undefined
    // A cache folder that cannot be written has nothing that could be wrong.
    void this.#onFaster().catch(() => undefined)
    return output
  }

  busyRatio(): number {
    const now = performance.now()
    const busyMs = this.#sessions.reduce((sum, session) => sum + session.takeBusyMs(now), 0)
    const spanMs = (now - this.#askedAt) * this.#sessions.length
    this.#askedAt = now
    return spanMs > 0 ? Math.min(1, busyMs / spanMs) : 0
  }

  async close(): Promise<void> {
    await Promise.all(this.#sessions.map((session) => session.close()))
  }

  /** Fewest batches first; a process that is being replaced only where all are. */
  #leastBusy(): SessionProcess | undefined {
    const cost = (session: SessionProcess) => session.depth + (session.ready ? 0 : 1000)
    return this.#sessions.reduce<SessionProcess | undefined>(
      (best, one) => (best && cost(best) <= cost(one) ? best : one),
      undefined,
    )
  }
}
