/** How a peer that runs in Node speaks with the race: as peer.py does. */
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

export interface List {
  readonly query: string
  readonly documents: readonly string[]
}

export interface PeerArguments {
  readonly folder: string
  readonly threads: number
  readonly lists: readonly List[]
  /** What else its command line says. */
  readonly more: readonly string[]
}

export async function peerArguments(): Promise<PeerArguments> {
  const [folder = '', threads = '1', lists = '', ...more] = process.argv.slice(2)
  return { folder, threads: Number(threads), lists: JSON.parse(await readFile(lists, 'utf8')) as List[], more }
}

/** Says that it is ready, and scores all lists for each line that comes. @param score scores of all pairs, in order */
export async function answerLines(score: () => Promise<number[]>): Promise<void> {
  process.stdout.write('{"ready":true}\n')
  for await (const _line of createInterface({ input: process.stdin })) {
    const startedAt = performance.now()
    const scores = await score()
    process.stdout.write(`${JSON.stringify({ seconds: (performance.now() - startedAt) / 1000, scores })}\n`)
  }
}
