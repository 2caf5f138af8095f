/** A batch run that is killed, stopped and run again until it is done. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { open, readdir, readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { KeptProcess } from './kept-process.js'

const LOOK_MS = 20
const PATIENCE_MS = 180_000
/** What a runner ends with that has lost its output to another. */
const LOST = 2
const NEWLINE = 0x0a

export class RunnerUnderTest {
  readonly output: string
  readonly #start: (output: string) => ChildProcess
  #process: KeptProcess | undefined
  /** Of the output, as far as it was read. */
  #bytes = 0
  #lines = 0

  constructor(output: string, start: (output: string) => ChildProcess) {
    this.output = output
    this.#start = start
  }

  start(): void {
    this.#process = new KeptProcess(() => this.#start(this.output))
  }

  kill(): void {
    this.#process?.kill()
  }

  async end(): Promise<void> {
    await this.#process?.end()
  }

  /** Ends what runs, and runs once more to the end. */
  async finish(): Promise<void> {
    await this.end()
    await this.runThrough(this.output)
  }

  /** Runs until it says that it is done. */
  async runThrough(output: string): Promise<void> {
    const [code] = await once(this.#start(output), 'exit')
    if (code !== 0) throw new Error(`the run ended with ${code}`)
  }

  async untilLines(least: number): Promise<void> {
    let best = -1
    let movedAt = performance.now()
    for (;;) {
      const lines = await this.#count()
      if (lines >= least) return
      if (lines > best) movedAt = performance.now()
      best = Math.max(best, lines)
      if (performance.now() - movedAt > PATIENCE_MS)
        throw new Error(`no progress beyond line ${best} for ${PATIENCE_MS / 1000} s`)
      await delay(LOOK_MS)
    }
  }

  /** What runs now comes to its own end; or had nothing left to do. */
  async untilItEnds(): Promise<void> {
    const child = this.#process?.child
    if (child && child.exitCode === null && child.signalCode === null) {
      await Promise.race([once(child, 'exit'), delay(PATIENCE_MS, undefined, { ref: false })])
    }
  }

  /** Wakes a runner when another has taken its output over; it has to notice. */
  async sleepPastLease(): Promise<void> {
    const before = await this.#newestClaim()
    const sleeper = this.#process?.putToSleep()
    if (!sleeper) return
    const ended = once(sleeper, 'exit')
    const deadline = performance.now() + PATIENCE_MS
    while ((await this.#newestClaim()) <= before) {
      // Nobody claims what is finished: it was, when it was put to sleep, or its successor found it so.
      if (await this.#isFinished()) {
        sleeper.kill('SIGKILL')
        return
      }
      if (performance.now() > deadline) throw new Error(`nobody took over from a sleeper in ${PATIENCE_MS / 1000} s`)
      await delay(LOOK_MS)
    }
    sleeper.kill('SIGCONT')
    const [code, signal] = await ended
    // One that was killed just before had no more to say.
    if (code !== LOST && signal !== 'SIGKILL') throw new Error(`a runner that slept past its lease ended with ${code}`)
  }

  async #isFinished(): Promise<boolean> {
    const report = await readFile(`${this.output}.report.json`, 'utf8').catch(() => '{}')
    return /"status":\s*"finished"/.test(report)
  }

  /** Number of the last runner that has written a checkpoint. */
  async #newestClaim(): Promise<number> {
    const names = await readdir(`${this.output}.rankmill`).catch(() => [])
    return Math.max(0, ...names.map((name) => Number(/^checkpoint\.(\d+)$/.exec(name)?.[1] ?? 0)))
  }

  /** Reads on where it stopped; from the beginning where the output has become shorter. */
  async #count(): Promise<number> {
    if (!existsSync(this.output)) return 0
    const file = await open(this.output)
    try {
      if ((await file.stat()).size < this.#bytes) {
        this.#bytes = 0
        this.#lines = 0
      }
      const buffer = Buffer.alloc(1 << 20)
      for (;;) {
        const { bytesRead } = await file.read(buffer, 0, buffer.length, this.#bytes)
        if (bytesRead === 0) return this.#lines
        this.#bytes += bytesRead
        for (let i = 0; i < bytesRead; i++) if (buffer[i] === NEWLINE) this.#lines++
      }
    } finally {
      await file.close()
    }
  }
}
