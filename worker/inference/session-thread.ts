/** One inference thread as the main thread sees it: starts it, hands it batches, replaces it when it dies. */
import { Worker } from 'node:worker_threads'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import { isReplaced } from '../model/bound-files.js'
import { type Batch, type BatchOutput, buffersOf, type EngineLog } from './engine.js'
import type { FromThread, ThreadData, ToThread } from './thread-protocol.js'

/** First wait before a dead thread is replaced; it doubles with each start that fails. */
const RESTART_MS = 100
const RESTART_LIMIT_MS = 30_000
/** How long a thread may take to finish its batches and free its session before it is terminated. */
const CLOSE_MS = 5000

interface Pending {
  readonly batch: Batch
  readonly resolve: (output: BatchOutput) => void
  readonly reject: (error: RankmillError) => void
}

export class SessionThread {
  readonly #data: ThreadData
  readonly #log: EngineLog
  readonly #pending = new Map<number, Pending>()
  #worker: Worker | undefined
  #ready = false
  #closed = false
  #failedStarts = 0
  #restart: NodeJS.Timeout | undefined
  #nextId = 0
  #busyMs = 0
  #busySince: number | undefined
  /** Why the last start failed. */
  #startError: RankmillError | undefined
  /** Set while the model's files are not those that the thread was started with. */
  #unusable: RankmillError | undefined
  /** Settles the first start; replacements have nobody to tell. */
  #started: { resolve: () => void; reject: (error: RankmillError) => void } | undefined

  /**
   * Starts a thread and waits until its model is loaded and warm.
   *
   * @throws RankmillError `invalid_model`, `invalid_configuration`, `out_of_memory`, `worker_lost`
   */
  static async start(data: ThreadData, log: EngineLog): Promise<SessionThread> {
    const thread = new SessionThread(data, log)
    await new Promise<void>((resolve, reject) => {
      thread.#started = { resolve, reject }
      thread.#spawn()
    })
    return thread
  }

  private constructor(data: ThreadData, log: EngineLog) {
    this.#data = data
    this.#log = log
  }

  /** Whether batches sent now are run now, and not after a restart. */
  get ready(): boolean {
    return this.#ready
  }

  /** Batches sent and not answered. */
  get depth(): number {
    return this.#pending.size
  }

  /** The thread's id, or -1 while there is none. */
  get threadId(): number {
    return this.#worker?.threadId ?? -1
  }

  /** Sends a batch; its buffers are transferred. While a dead thread is being replaced the batch waits here. */
  run(batch: Batch): Promise<BatchOutput> {
    if (this.#closed) return Promise.reject(new RankmillError('closed', 'the inference threads are closed'))
    if (this.#unusable) return Promise.reject(this.#unusable)
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#pending.set(id, { batch, resolve, reject })
      if (this.#ready) this.#send(id, batch)
    })
  }

  /** Milliseconds that the thread was busy since the last call. */
  takeBusyMs(now: number): number {
    const running = this.#busySince === undefined ? 0 : now - this.#busySince
    if (this.#busySince !== undefined) this.#busySince = now
    const busy = this.#busyMs + running
    this.#busyMs = 0
    return busy
  }

  /** Lets batches under way finish, frees the session and ends the thread; by force after a while. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#restart)
    const worker = this.#worker
    if (worker) {
      const exited = new Promise((resolve) => worker.once('exit', resolve))
      worker.postMessage('close' satisfies ToThread)
      if (!(await within(exited, CLOSE_MS))) {
        this.#log.warn({ ms: CLOSE_MS }, 'an inference thread did not end by itself')
        await worker.terminate()
      }
    }
    this.#rejectAll(new RankmillError('closed', 'the inference threads are closed'))
  }

  /**
   * Ends the thread between two calls of the model, batches under way lost, for tests of what follows. Terminating it
   * inside a call takes the process with it: onnxruntime-node throws where nothing can catch.
   */
  async kill(): Promise<void> {
    const worker = this.#worker
    if (!worker) return
    const exited = new Promise((resolve) => worker.once('exit', resolve))
    worker.postMessage('kill' satisfies ToThread)
    await exited
  }

  #spawn(): void {
    const worker = new Worker(new URL('./inference-thread.js', import.meta.url), {
      workerData: this.#data,
      name: 'inference',
    })
    this.#worker = worker
    let cause: Error | undefined
    worker.on('message', (message: FromThread) => this.#receive(message))
    worker.on('error', (error: unknown) => {
      cause = error instanceof Error ? error : new Error(String(error))
    })
    worker.once('exit', (code) => this.#exited(code, cause))
  }

  #send(id: number, batch: Batch): void {
    const { inputIds, attentionMask, tokenTypeIds, states } = batch
    const tokens = [inputIds, attentionMask, ...(tokenTypeIds ? [tokenTypeIds] : [])]
    const buffers = [...tokens.map(({ buffer }) => buffer as ArrayBuffer), ...buffersOf(states)]
    this.#busySince ??= performance.now()
    this.#worker?.postMessage({ id, batch } satisfies ToThread, buffers)
  }

  #receive(message: FromThread): void {
    if (message.type === 'ready') {
      this.#ready = true
      this.#unusable = undefined
      this.#failedStarts = 0
      this.#started?.resolve()
      this.#started = undefined
      for (const [id, { batch }] of this.#pending) this.#send(id, batch)
      return
    }
    if (message.type === 'unusable') {
      this.#startError = RankmillError.fromBody(message.error)
      this.#startFailed(this.#startError)
      return
    }
    const pending = this.#pending.get(message.id)
    this.#pending.delete(message.id)
    if (this.#pending.size === 0) this.#idle()
    if (message.type === 'scored') pending?.resolve(message.output)
    else pending?.reject(RankmillError.fromBody(message.error))
  }

  #exited(code: number, cause: Error | undefined): void {
    this.#worker = undefined
    this.#ready = false
    this.#idle()
    if (this.#closed) return
    const outOfMemory = cause !== undefined && 'code' in cause && cause.code === 'ERR_WORKER_OUT_OF_MEMORY'
    // Files that are others now stay so, however often they are read again.
    const replaced = isReplaced(this.#startError)
    const reason = this.#startError?.message ?? cause?.message ?? `exit code ${code}`
    this.#startError = undefined
    const message = `an inference thread ended: ${reason}`
    const kind = replaced ? 'invalid_model' : outOfMemory ? 'out_of_memory' : 'worker_lost'
    const error = new RankmillError(kind, message, {}, { cause })
    this.#unusable = replaced ? error : undefined
    this.#startFailed(error)
    this.#rejectAll(error)
    // The caller of a first start was told, and lets go of this object.
    if (this.#closed) return
    const waitMs = Math.min(RESTART_LIMIT_MS, RESTART_MS * 2 ** this.#failedStarts++)
    this.#log.warn({ err: message, waitMs }, 'an inference thread is replaced')
    this.#restart = setTimeout(() => this.#spawn(), waitMs)
  }

  /** A first start that fails is the caller's to judge; a replacement's is not. */
  #startFailed(error: RankmillError): void {
    if (!this.#started) return
    this.#closed = true
    this.#started.reject(error)
    this.#started = undefined
  }

  #idle(): void {
    if (this.#busySince !== undefined) this.#busyMs += performance.now() - this.#busySince
    this.#busySince = undefined
  }

  #rejectAll(error: RankmillError): void {
    const waiting = [...this.#pending.values()]
    this.#pending.clear()
    for (const { reject } of waiting) reject(error)
  }
}
