/**
 * Threads that work on texts, so that no text, however long and whatever is in it, holds up the event loop that renews
 * locks. Tasks are small (tasksOf) and wait here, the most urgent first; a thread is given the next before it has ended one.
 */
import { setMaxListeners } from 'node:events'
import { Worker } from 'node:worker_threads'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import { type Urgency, UrgencyLine } from '../batching/urgency.js'
import type { TextOutput, TextRunner, TextTask } from './text-tasks.js'
import type { FromTextThread, TextThreadData, ToTextThread } from './text-thread.js'

export interface TextThreadsOptions {
  readonly threads: number
  /** Who has waited this long goes before who is more urgent, now and then. */
  readonly maxAgeMs: number
  /** A thread that works so long on one task is ended and replaced; its tasks fail as `worker_lost`. */
  readonly taskTimeoutMs: number
  readonly now: () => number
}

/** Tasks that a thread holds: one it works on, and one that waits. */
const DEPTH = 2
/** For a thread to end by itself. */
const CLOSE_MS = 1000

interface Waiter {
  readonly task: TextTask
  readonly resolve: (output: object) => void
  readonly reject: (error: unknown) => void
}

/** Starts its threads when they are first needed. */
export class TextThreads implements TextRunner {
  readonly #options: TextThreadsOptions
  readonly #line: UrgencyLine<Waiter>
  readonly #threads: TextThread[] = []
  #isClosed = false

  constructor(options: TextThreadsOptions) {
    this.#options = options
    this.#line = new UrgencyLine(options.maxAgeMs)
  }

  run<T extends TextTask>(task: T, urgency: Urgency, signal: AbortSignal): Promise<TextOutput<T>> {
    if (this.#isClosed) return Promise.reject(closed())
    if (signal.aborted) return Promise.reject(signal.reason)
    if (task.kind === 'open') return this.#openAll(task)
    return new Promise<TextOutput<T>>((resolve, reject) => {
      const abort = () => {
        this.#line.remove(waiter)
        reject(signal.reason)
      }
      const waiter: Waiter = {
        task,
        resolve: (output) => {
          signal.removeEventListener('abort', abort)
          resolve(output as TextOutput<T>)
        },
        reject: (error) => {
          signal.removeEventListener('abort', abort)
          reject(error)
        },
      }
      // A request has as many tasks as its texts need: as many listeners are no leak.
      setMaxListeners(0, signal)
      signal.addEventListener('abort', abort, { once: true })
      this.#line.add(waiter, urgency, this.#options.now())
      this.#pump()
    })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    for (const { reject } of this.#line.clear()) reject(closed())
    await Promise.all(this.#threads.map((thread) => thread.close()))
  }

  /** Every thread needs the tokeniser, and better now than when work waits for it. */
  async #openAll<T extends TextTask>(task: T): Promise<TextOutput<T>> {
    while (this.#threads.length < this.#options.threads) this.#threads.push(this.#thread())
    const opened = this.#threads.map((thread) => {
      return new Promise<object>((resolve, reject) => thread.give({ task, resolve, reject }))
    })
    const [first] = await Promise.all(opened)
    return first as TextOutput<T>
  }

  #thread(): TextThread {
    return new TextThread(this.#options, () => this.#pump())
  }

  #pump(): void {
    const late = 'the deadline passed while the request waited for its texts to be read'
    for (const { reject } of this.#line.expired(this.#options.now()))
      reject(new RankmillError('deadline_exceeded', late))
    for (;;) {
      const next = this.#line.next(this.#options.now())
      const thread = next && this.#freest()
      if (!thread) return
      this.#line.served(next)
      thread.give(next)
    }
  }

  /** The thread with the least to do; another one as long as all have something and there may be more. */
  #freest(): TextThread | undefined {
    const best = this.#threads.reduce<TextThread | undefined>(
      (least, thread) => (least && least.depth <= thread.depth ? least : thread),
      undefined,
    )
    if (best?.depth === 0) return best
    if (this.#threads.length < this.#options.threads) {
      const thread = this.#thread()
      this.#threads.push(thread)
      return thread
    }
    return best && best.depth < DEPTH ? best : undefined
  }
}

/** One thread as the main thread sees it; replaced at once where it dies. */
class TextThread {
  readonly #timeoutMs: number
  /** Of what all threads may keep in their caches. */
  readonly #share: number
  readonly #free: () => void
  readonly #given = new Map<number, Waiter>()
  #worker: Worker | undefined
  #watch: NodeJS.Timeout | undefined
  /** Its start takes no time of its first task's. */
  #isReady = false
  #nextId = 0

  constructor({ taskTimeoutMs, threads }: TextThreadsOptions, free: () => void) {
    this.#timeoutMs = taskTimeoutMs
    this.#share = 1 / threads
    this.#free = free
  }

  get depth(): number {
    return this.#given.size
  }

  give(waiter: Waiter): void {
    this.#worker ??= this.#spawn()
    const id = this.#nextId++
    this.#given.set(id, waiter)
    this.#worker.postMessage({ id, task: waiter.task } satisfies ToTextThread)
    if (this.#isReady) this.#watch ??= this.#watched(this.#worker)
  }

  async close(): Promise<void> {
    const worker = this.#worker
    if (!worker) return
    const exited = new Promise((resolve) => worker.once('exit', resolve))
    worker.postMessage('close' satisfies ToTextThread)
    if (!(await within(exited, CLOSE_MS))) await worker.terminate()
  }

  #spawn(): Worker {
    const worker = new Worker(new URL('./text-thread.js', import.meta.url), {
      name: 'texts',
      workerData: { share: this.#share } satisfies TextThreadData,
    })
    let cause: unknown
    worker.on('message', (message: FromTextThread) => this.#receive(worker, message))
    worker.on('error', (error: unknown) => {
      cause = error
    })
    worker.once('exit', () => this.#exited(worker, cause))
    return worker
  }

  #receive(worker: Worker, message: FromTextThread): void {
    clearTimeout(this.#watch)
    if (message === 'ready') {
      this.#isReady = true
      this.#watch = this.#given.size > 0 ? this.#watched(worker) : undefined
      return
    }
    const waiter = this.#given.get(message.id)
    this.#given.delete(message.id)
    this.#watch = this.#given.size > 0 ? this.#watched(worker) : undefined
    if ('error' in message) waiter?.reject(RankmillError.fromBody(message.error))
    else waiter?.resolve(message.output)
    this.#free()
  }

  #watched(worker: Worker): NodeJS.Timeout {
    return setTimeout(() => void worker.terminate(), this.#timeoutMs)
  }

  #exited(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    this.#isReady = false
    clearTimeout(this.#watch)
    this.#watch = undefined
    const reason = cause instanceof Error ? cause.message : `ended after at most ${this.#timeoutMs} ms in one task`
    const lost = [...this.#given.values()]
    this.#given.clear()
    for (const { reject } of lost)
      reject(new RankmillError('worker_lost', `the thread that works on texts was lost: ${reason}`, {}, { cause }))
    this.#free()
  }
}

function closed(): RankmillError {
  return new RankmillError('closed', 'the worker is stopping')
}
