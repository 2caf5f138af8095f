/**
 * One inference process as the worker sees it: starts it, hands it batches, and replaces it when it dies or a call does not
 * end. Measured against threads (docs/architecture.md): as fast, and nothing that happens in it ends the worker.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import { isReplaced } from '../model/bound-files.js'
import type { Batch, BatchOutput, EngineLog } from './engine.js'
import { packBatch } from './packed-batch.js'
import type { FromProcess, SessionData, ToProcess } from './session-protocol.js'
import { withoutTelemetry } from './telemetry.js'

/** First wait before a dead process is replaced; it doubles with each start that fails. */
const RESTART_MS = 100
const RESTART_LIMIT_MS = 30_000
/** How long a process may take to finish its batches and free its session before it is killed. */
const CLOSE_MS = 5000

const ENTRY = fileURLToPath(new URL('./inference-process.js', import.meta.url))

interface Pending {
  readonly batch: Batch
  readonly resolve: (output: BatchOutput) => void
  readonly reject: (error: RankmillError) => void
}

export interface SessionSettings extends SessionData {
  /** A call that takes longer is given up, and its process killed. */
  readonly callTimeoutMs: number
}

export class SessionProcess {
  readonly #data: SessionData
  readonly #callTimeoutMs: number
  readonly #log: EngineLog
  /** In the order they were sent: the first is the one that runs. */
  readonly #pending = new Map<number, Pending>()
  #child: ChildProcess | undefined
  #ready = false
  #closed = false
  #failedStarts = 0
  #restart: NodeJS.Timeout | undefined
  #watch: NodeJS.Timeout | undefined
  #isOverdue = false
  #nextId = 0
  #keptTokens = 0
  #busyMs = 0
  #busySince: number | undefined
  /** Why the last start failed. */
  #startError: RankmillError | undefined
  /** Set while the model's files are not those that it was started with. */
  #unusable: RankmillError | undefined
  /** Settles the first start; replacements have nobody to tell. */
  #started: { resolve: () => void; reject: (error: RankmillError) => void } | undefined

  /**
   * Starts a process and waits until its model is loaded and warm.
   *
   * @throws RankmillError `invalid_model`, `invalid_configuration`, `out_of_memory`, `worker_lost`
   */
  static async start(settings: SessionSettings, log: EngineLog): Promise<SessionProcess> {
    const session = new SessionProcess(settings, log)
    await new Promise<void>((resolve, reject) => {
      session.#started = { resolve, reject }
      session.#spawn()
    })
    return session
  }

  private constructor({ callTimeoutMs, ...data }: SessionSettings, log: EngineLog) {
    this.#data = data
    this.#callTimeoutMs = callTimeoutMs
    this.#log = log
  }

  /** Whether batches sent now are run now, and not after a restart. */
  get ready(): boolean {
    return this.#ready
  }

  /** Tokens of the longest beginning that it keeps; 0: none. */
  get keptTokens(): number {
    return this.#keptTokens
  }

  /** Batches sent and not answered. */
  get depth(): number {
    return this.#pending.size
  }

  /** The process's id, or -1 while there is none. */
  get pid(): number {
    return this.#child?.pid ?? -1
  }

  /** Sends a batch. While a dead process is being replaced the batch waits here. */
  run(batch: Batch): Promise<BatchOutput> {
    if (this.#closed) return Promise.reject(closed())
    if (this.#unusable) return Promise.reject(this.#unusable)
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#pending.set(id, { batch, resolve, reject })
      if (this.#ready) this.#send(id, batch)
    })
  }

  /** Milliseconds that the process was busy since the last call. */
  takeBusyMs(now: number): number {
    const running = this.#busySince === undefined ? 0 : now - this.#busySince
    if (this.#busySince !== undefined) this.#busySince = now
    const busy = this.#busyMs + running
    this.#busyMs = 0
    return busy
  }

  /** Lets batches under way finish, frees the session and ends the process; kills it after a while. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#restart)
    const child = this.#child
    if (child) {
      const exited = new Promise((resolve) => child.once('exit', resolve))
      this.#post('close')
      if (!(await within(exited, CLOSE_MS))) {
        this.#log.warn({ ms: CLOSE_MS }, 'an inference process did not end by itself: it is killed')
        child.kill('SIGKILL')
        await exited
      }
    }
    clearTimeout(this.#watch)
    this.#rejectAll(closed())
  }

  #spawn(): void {
    // Nothing of this process's flags: a debugger's port, say, can be used once.
    const child = fork(ENTRY, {
      execArgv: [],
      env: withoutTelemetry(),
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.#child = child
    let cause: Error | undefined
    child.on('message', (message) => this.#receive(message as FromProcess))
    child.on('error', (error) => {
      cause = error
      // What could not be started never exits.
      if (child.pid === undefined) this.#exited('it could not be started', cause)
    })
    child.once('exit', (code, signal) => this.#exited(signal ?? `exit code ${code}`, cause))
    this.#post({ open: this.#data })
  }

  #send(id: number, batch: Batch): void {
    this.#busySince ??= performance.now()
    this.#post({ id, batch: packBatch(batch) })
    this.#watch ??= this.#watched()
  }

  /** What the process cannot take any more is lost with it: its exit tells. */
  #post(message: ToProcess): void {
    this.#child?.send(message, () => undefined)
  }

  #receive(message: FromProcess): void {
    if (message.type === 'ready') {
      this.#ready = true
      this.#unusable = undefined
      this.#failedStarts = 0
      this.#keptTokens = message.keptTokens ?? 0
      if (message.causal)
        this.#log.info({ model: this.#data.model.name, ...message.causal }, 'how rows share calls was tried')
      this.#started?.resolve()
      this.#started = undefined
      for (const [id, { batch }] of this.#pending) this.#send(id, batch)
      return
    }
    if (message.type === 'unusable') {
      this.#startError = RankmillError.fromBody(message.error)
      this.#startFailed(this.#startError)
      this.#child?.kill('SIGKILL')
      return
    }
    const pending = this.#pending.get(message.id)
    this.#pending.delete(message.id)
    clearTimeout(this.#watch)
    this.#watch = this.#pending.size > 0 ? this.#watched() : undefined
    if (this.#pending.size === 0) this.#idle()
    if (message.type === 'scored') pending?.resolve(message.output)
    else pending?.reject(RankmillError.fromBody(message.error))
  }

  /** Of the batch that runs now. */
  #watched(): NodeJS.Timeout {
    return setTimeout(() => {
      this.#isOverdue = true
      this.#child?.kill('SIGKILL')
    }, this.#callTimeoutMs)
  }

  #exited(how: string, cause: Error | undefined): void {
    const wasReady = this.#ready
    this.#child = undefined
    this.#ready = false
    clearTimeout(this.#watch)
    this.#watch = undefined
    this.#idle()
    if (this.#closed) return
    // Files that are others now stay so, however often they are read again.
    const replaced = isReplaced(this.#startError)
    const reason = this.#startError?.message ?? cause?.message ?? how
    this.#startError = undefined
    const message = `an inference process ended: ${reason}`
    const lost = new RankmillError(replaced ? 'invalid_model' : 'worker_lost', message, {}, { cause })
    this.#unusable = replaced ? lost : undefined
    this.#startFailed(lost)
    if (wasReady) this.#rejectFirst(this.#isOverdue ? this.#overdue() : lost)
    // Nobody knows when it can start: whoever waits is told, and may try elsewhere.
    else this.#rejectAll(lost)
    this.#isOverdue = false
    // The caller of a first start was told, and lets go of this object.
    if (this.#closed) return
    const waitMs = wasReady ? 0 : Math.min(RESTART_LIMIT_MS, RESTART_MS * 2 ** this.#failedStarts++)
    this.#log.warn({ err: message, waitMs }, 'an inference process is replaced')
    this.#restart = setTimeout(() => this.#spawn(), waitMs)
  }

  #overdue(): RankmillError {
    const message = `the model's call did not end within ${this.#callTimeoutMs} ms (callTimeoutMs)`
    return new RankmillError('inference_failed', message)
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

  /** The batch that ran is lost with its process; those behind it run in the next one. */
  #rejectFirst(error: RankmillError): void {
    const [first] = this.#pending
    if (!first) return
    this.#pending.delete(first[0])
    first[1].reject(error)
  }

  #rejectAll(error: RankmillError): void {
    const waiting = [...this.#pending.values()]
    this.#pending.clear()
    for (const { reject } of waiting) reject(error)
  }
}

function closed(): RankmillError {
  return new RankmillError('closed', 'the inference processes are closed')
}
