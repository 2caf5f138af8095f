/** One peer in its process: lists go in by lines, scores come back. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Peer } from './environments.js'
import type { List } from './peer-lines.js'
import { treeUse } from './process-tree.js'

interface Answer {
  readonly seconds: number
  readonly scores: readonly number[]
}

interface Waiting {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

export interface Scored extends Answer {
  readonly cpuSeconds: number
}

export class Runner {
  readonly peer: Peer
  readonly startSeconds: number
  readonly #child: ChildProcessWithoutNullStreams
  /** For the lines that it has not answered yet, in order. */
  readonly #waiting: Waiting[] = []

  private constructor(peer: Peer, child: ChildProcessWithoutNullStreams, startSeconds: number) {
    this.peer = peer
    this.#child = child
    this.startSeconds = startSeconds
  }

  /** @throws Error with the last thing that it said, where it does not start */
  static async start(peer: Peer, { command, args }: { command: string; args: string[] }): Promise<Runner> {
    const startedAt = performance.now()
    const child = spawn(command, args)
    let said = ''
    child.stderr.on('data', (chunk) => {
      said = `${said}${chunk}`.slice(-2000)
    })
    child.on('error', (error) => {
      said = error.message
    })
    const lines = createInterface({ input: child.stdout })
    const closed = once(lines, 'close').then(() => {
      throw new Error(`does not start: ${said.trim().split('\n').at(-1)}`)
    })
    await Promise.race([once(lines, 'line'), closed])
    const runner = new Runner(peer, child, (performance.now() - startedAt) / 1000)
    closed.catch(() => {
      const ended = new Error(`${peer.name} ended: ${said.trim().split('\n').at(-1)}`)
      for (const { reject } of runner.#waiting.splice(0)) reject(ended)
    })
    lines.on('line', (line) => runner.#waiting.shift()?.resolve(JSON.parse(line) as Answer))
    return runner
  }

  /** Peers answer one line after the other. @throws Error where it has ended */
  async ask(lists: readonly List[]): Promise<Answer> {
    return await new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#child.stdin.write(`${JSON.stringify(lists)}\n`)
    })
  }

  /** Asks, and counts what its processes use meanwhile. */
  async score(lists: readonly List[]): Promise<Scored> {
    const before = this.#use().cpuSeconds
    const answer = await this.ask(lists)
    return { ...answer, cpuSeconds: this.#use().cpuSeconds - before }
  }

  get peakBytes(): number {
    return this.#use().peakBytes
  }

  end(): void {
    this.#child.stdin.end()
  }

  #use() {
    return treeUse(this.#child.pid ?? 0)
  }
}
