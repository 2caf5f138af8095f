/** One peer in its process, and what its rounds took. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Peer } from './environments.js'
import { treeUse } from './process-tree.js'

interface Round {
  readonly seconds: number
  readonly cpuSeconds: number
}

export interface Outcome {
  readonly peer: Peer
  readonly startSeconds: number
  readonly rounds: Round[]
  peakBytes: number
  scores: readonly number[]
}

export class Runner {
  readonly outcome: Outcome
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>

  private constructor(outcome: Outcome, child: ChildProcessWithoutNullStreams, lines: AsyncIterator<string>) {
    this.outcome = outcome
    this.#child = child
    this.#lines = lines
  }

  /** @throws Error with the last thing that it said, where it does not start */
  static async start(peer: Peer, { command, args }: { command: string; args: string[] }): Promise<Runner> {
    const startedAt = performance.now()
    const child = spawn(command, args)
    let said = ''
    child.stderr.on('data', (chunk) => {
      said = `${said}${chunk}`.slice(-2000)
    })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const { done } = await lines.next()
    if (done) throw new Error(`does not start: ${said.trim().split('\n').at(-1)}`)
    const startSeconds = (performance.now() - startedAt) / 1000
    const runner = new Runner({ peer, startSeconds, rounds: [], peakBytes: 0, scores: [] }, child, lines)
    await runner.#run()
    return runner
  }

  async round(): Promise<void> {
    this.outcome.rounds.push(await this.#run())
  }

  end(): void {
    this.#child.stdin.end()
  }

  async #run(): Promise<Round> {
    const pid = this.#child.pid ?? 0
    const before = treeUse(pid).cpuSeconds
    this.#child.stdin.write('go\n')
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`${this.outcome.peer.name} ended`)
    const { seconds, scores } = JSON.parse(value) as { seconds: number; scores: number[] }
    const { cpuSeconds, peakBytes } = treeUse(pid)
    this.outcome.peakBytes = peakBytes
    this.outcome.scores = scores
    return { seconds, cpuSeconds: cpuSeconds - before }
  }
}
