/** Worker processes started by a command: as children, ready when they hold their model, gone when it ends. */
import { type ChildProcess, fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { MetricsSnapshot } from '../../monitoring/fleet.js'
import { type ErrorBody, RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import type { Options } from '../../shared/options.js'
import { asFlags, WORKER_OPTIONS } from '../options.js'

/** What a child tells its parent; `rankmill worker` speaks this when it has a parent that listens. */
export type ChildMessage =
  | { readonly type: 'ready'; readonly metricsUrl: string }
  | { readonly type: 'failed'; readonly error: ErrorBody }
  | { readonly type: 'metrics'; readonly snapshot: MetricsSnapshot }
export type ParentMessage = { readonly type: 'metrics' }

const MAIN = fileURLToPath(new URL('../main.js', import.meta.url))
/** Loading a model is quick, downloading one may not be. */
const READY_MS = 600_000
const SNAPSHOT_MS = 2000

/** Default number of workers: one for two cores, so that each has a session or two. */
export function defaultWorkers(): number {
  return Math.max(1, Math.floor(availableParallelism() / 2))
}

export class Fleet {
  readonly #children: readonly ChildProcess[]
  readonly #drainMs: number
  #stopping = false

  /** @throws RankmillError what the first worker that failed says of it */
  static async start(options: Options, workers: number, onExit: (line: string) => void): Promise<Fleet> {
    const threads = options.threads || availableParallelism()
    // What a child says of its start, this command says itself.
    const logLevel = options.logLevel === 'info' ? 'warn' : options.logLevel
    const each: Options = { ...options, logLevel, metricsPort: 0, threads: Math.max(1, Math.floor(threads / workers)) }
    const flags = asFlags(each, WORKER_OPTIONS)
    const children = Array.from({ length: workers }, () =>
      // The password that a Redis URL may hold does not belong on a command line that everybody can read.
      fork(MAIN, ['worker', ...withoutRedis(flags)], {
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
        env: { ...process.env, RANKMILL_REDIS: options.redis },
        // Ctrl-C reaches the whole process group; the parent decides when its children stop.
        detached: true,
        execArgv: [],
      }),
    )
    const fleet = new Fleet(children, options.drainTimeoutMs, onExit)
    try {
      await Promise.all(children.map(ready))
      return fleet
    } catch (error) {
      await fleet.stop(true)
      throw error
    }
  }

  private constructor(children: readonly ChildProcess[], drainMs: number, onExit: (line: string) => void) {
    this.#children = children
    this.#drainMs = drainMs
    for (const child of children) {
      child.on('exit', (code, signal) => {
        if (!this.#stopping) onExit(`worker ${child.pid} ended unexpectedly (${signal ?? `exit code ${code}`})`)
      })
    }
  }

  get size(): number {
    return this.#children.length
  }

  get alive(): number {
    return this.#children.filter(isAlive).length
  }

  get pids(): number[] {
    return this.#children.flatMap((child) => child.pid ?? [])
  }

  /** The workers' metrics; one that does not answer is left out. */
  async snapshots(): Promise<MetricsSnapshot[]> {
    const snapshots = await Promise.all(this.#children.filter(isAlive).map(snapshotOf))
    return snapshots.filter((snapshot) => snapshot !== undefined)
  }

  /** Lets the workers drain, or kills them where `force`; bounded. */
  async stop(force = false): Promise<void> {
    this.#stopping = true
    await Promise.all(
      this.#children.filter(isAlive).map(async (child) => {
        const gone = new Promise((resolve) => child.once('exit', resolve))
        child.kill(force ? 'SIGKILL' : 'SIGTERM')
        if (await within(gone, this.#drainMs + 10_000)) return
        child.kill('SIGKILL')
        await gone
      }),
    )
  }
}

function isAlive(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null
}

function withoutRedis(flags: readonly string[]): string[] {
  const at = flags.indexOf('--redis')
  return at < 0 ? [...flags] : [...flags.slice(0, at), ...flags.slice(at + 2)]
}

async function ready(child: ChildProcess): Promise<void> {
  let settle: (error?: unknown) => void = () => undefined
  const known = new Promise<void>((resolve, reject) => {
    settle = (error) => (error ? reject(error) : resolve())
  })
  const onMessage = (message: ChildMessage) => {
    if (message.type === 'ready') settle()
    if (message.type === 'failed') settle(RankmillError.fromBody(message.error))
  }
  const onExit = () => settle(new RankmillError('worker_lost', 'a worker process ended before it was ready'))
  child.on('message', onMessage)
  child.once('exit', onExit)
  try {
    const inTime = await within(known, READY_MS)
    if (!inTime) throw new RankmillError('timeout', `a worker process was not ready after ${READY_MS / 1000} s`)
  } finally {
    child.off('message', onMessage)
    child.off('exit', onExit)
  }
}

async function snapshotOf(child: ChildProcess): Promise<MetricsSnapshot | undefined> {
  let onMessage: (message: ChildMessage) => void = () => undefined
  let snapshot: MetricsSnapshot | undefined
  const answered = new Promise<void>((resolve) => {
    onMessage = (message) => {
      if (message.type !== 'metrics') return
      snapshot = message.snapshot
      resolve()
    }
  })
  child.on('message', onMessage)
  child.send({ type: 'metrics' } satisfies ParentMessage, () => undefined)
  await within(answered, SNAPSHOT_MS)
  child.off('message', onMessage)
  return snapshot
}
