/** How a peer that runs in Node speaks with the race: as peer.py does. */
import { createInterface } from 'node:readline'

/** A query with its candidates. */
export interface List {
  readonly query: string
  readonly documents: readonly string[]
}

/** Its command line: the model's folder, threads, and what else there is. */
export function peerArguments(): { folder: string; threads: number; more: readonly string[] } {
  const [folder = '', threads = '1', ...more] = process.argv.slice(2)
  return { folder, threads: Number(threads), more }
}

/**
 * Says that it is ready, and answers each line, which is lists, with the scores of all their pairs.
 *
 * @param score scores in the order of lists and documents
 */
export async function answerLines(score: (lists: readonly List[]) => Promise<number[]>): Promise<void> {
  process.stdout.write('{"ready":true}\n')
  for await (const line of createInterface({ input: process.stdin })) {
    const lists = JSON.parse(line) as List[]
    const startedAt = performance.now()
    const scores = await score(lists)
    process.stdout.write(`${JSON.stringify({ seconds: (performance.now() - startedAt) / 1000, scores })}\n`)
  }
}
