/** Worker processes started by a command: as children, ready when they hold their model, gone when it ends. */
import { type ChildProcess, fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { MetricsSnapshot } from '../../monitoring/fleet.js'
import { type ErrorBody, RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import type { Options } from '../../shared/options.js'
import { unlessAborted } from '../interruption.js'
import { asEnvironment } from '../options.js'

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
const FORCED_MS = 5000
const FIRST_RESTART_MS = 1000
const LAST_RESTART_MS = 60_000
/** A worker that lived this long was not a bad start. */
const LASTED_MS = 60_000

/** Default number of workers: one for two cores, so that each has a session or two. */
export function defaultWorkers(): number {
  return Math.max(1, Math.floor(availableParallelism() / 2))
}

/** Workers that serve the same. */
export interface WorkerPool {
  /** As the option `model`. */
  readonly model: string
  readonly workers: number
}

export class Fleet {
  readonly #children: ChildProcess[] = []
  /** By a child's place. */
  readonly #spawns: readonly (() => ChildProcess)[]
  readonly #drainMs: number
  readonly #report: (line: string) => void
  #restartMs = FIRST_RESTART_MS
  #stopping = false

  /**
   * @param pools which share the threads evenly among all of their workers
   * @throws RankmillError what the first worker that failed says of it
   */
  static async start(
    options: Options,
    pools: readonly WorkerPool[],
    report: (line: string) => void,
    signal?: AbortSignal,
  ): Promise<Fleet> {
    const threads = options.threads || availableParallelism()
    // What a child says of its start, this command says itself.
    const logLevel = options.logLevel === 'info' ? 'warn' : options.logLevel
    const workers = pools.reduce((sum, pool) => sum + pool.workers, 0)
    const each: Options = { ...options, logLevel, metricsPort: 0, threads: Math.max(1, Math.floor(threads / workers)) }
    const spawnOf = (model: string) => () =>
      fork(MAIN, ['worker'], {
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
        // Not on a command line, which everybody can read: a Redis URL may hold a password.
        env: { ...process.env, ...asEnvironment({ ...each, model }) },
        // Ctrl-C reaches the whole process group; the parent decides when its children stop.
        detached: true,
        execArgv: [],
      })
    const spawns = pools.flatMap((pool) => new Array<() => ChildProcess>(pool.workers).fill(spawnOf(pool.model)))
    const fleet = new Fleet(spawns, options.drainTimeoutMs, report)
    try {
      // One pool after the other: requests that name no model mean that of the worker that was there first.
      for (const pool of pools) {
        const started = fleet.#begin(pool.workers)
        await unlessAborted(Promise.all(started.map(ready)), signal, () => undefined)
      }
    } catch (error) {
      await fleet.stop(true)
      throw error
    }
    fleet.#children.forEach((child, place) => {
      fleet.#restartWhenGone(child, place)
    })
    return fleet
  }

  private constructor(spawns: readonly (() => ChildProcess)[], drainMs: number, report: (line: string) => void) {
    this.#spawns = spawns
    this.#drainMs = drainMs
    this.#report = report
  }

  /** Starts so many more of its workers. */
  #begin(count: number): ChildProcess[] {
    const first = this.#children.length
    const started = this.#spawns.slice(first, first + count).map((spawn) => spawn())
    this.#children.push(...started)
    return started
  }

  /** A worker that ends by itself is replaced, later each time while replacements do not last either. */
  #restartWhenGone(child: ChildProcess, place: number): void {
    const startedAt = performance.now()
    child.once('exit', (code, signal) => {
      if (this.#stopping) return
      if (performance.now() - startedAt > LASTED_MS) this.#restartMs = FIRST_RESTART_MS
      const how = signal ?? `exit code ${code}`
      this.#report(`rankmill: worker ${child.pid} ended (${how}); starting another in ${this.#restartMs / 1000} s`)
      setTimeout(() => {
        if (this.#stopping) return
        const next = this.#spawns[place]?.()
        if (!next) return
        this.#children[place] = next
        this.#restartWhenGone(next, place)
      }, this.#restartMs)
      this.#restartMs = Math.min(this.#restartMs * 2, LAST_RESTART_MS)
    })
  }

  get size(): number {
    return this.#children.length
  }

  get alive(): number {
    return this.#children.filter(isAlive).length
  }

  /** The workers' metrics; one that does not answer is left out. */
  async snapshots(): Promise<MetricsSnapshot[]> {
    const snapshots = await Promise.all(this.#children.filter(isAlive).map(snapshotOf))
    return snapshots.filter((snapshot) => snapshot !== undefined)
  }

  /** Lets the workers drain, or, where `force`, give their jobs back at once; bounded. */
  async stop(force = false): Promise<void> {
    this.#stopping = true
    await Promise.all(
      this.#children.filter(isAlive).map(async (child) => {
        const gone = new Promise((resolve) => child.once('exit', resolve))
        child.kill('SIGTERM')
        // A killed worker's jobs would wait for their lock to run out before the next one gets them.
        if (force) child.kill('SIGINT')
        if (await within(gone, force ? FORCED_MS : this.#drainMs + 10_000)) return
        child.kill('SIGKILL')
        await gone
      }),
    )
  }
}

function isAlive(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null
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
