/** A process that is started again whenever it ends, until it is let go. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'

export class KeptProcess {
  readonly #start: () => ChildProcess
  #child: ChildProcess
  #kept = true

  constructor(start: () => ChildProcess) {
    this.#start = start
    this.#child = this.#watch(start())
  }

  /** The one that runs now. */
  get child(): ChildProcess {
    return this.#child
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  /** Stops the process where it stands, and starts another beside it. */
  putToSleep(): ChildProcess {
    const sleeper = this.#child
    sleeper.removeAllListeners('exit')
    sleeper.kill('SIGSTOP')
    this.#child = this.#watch(this.#start())
    return sleeper
  }

  /** Stops the process for a while, and nobody takes its place. */
  async sleep(ms: number): Promise<void> {
    const child = this.#child
    child.kill('SIGSTOP')
    await delay(ms)
    child.kill('SIGCONT')
  }

  async end(): Promise<void> {
    this.#kept = false
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    this.kill()
    await gone
  }

  #watch(child: ChildProcess): ChildProcess {
    child.once('exit', () => {
      if (this.#kept) this.#child = this.#watch(this.#start())
    })
    return child
  }
}
