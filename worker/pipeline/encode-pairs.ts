/** Stage: token ids of the pairs that have no score yet. */
import { setImmediate } from 'node:timers/promises'
import type { EncodedPair, PairEncoder } from '../tokenize/pair-encoder.js'

/** Tokenising runs on the event loop; after so long it lets others go first (lock renewal, finished batches). */
const SLICE_MS = 8

export async function encodePairs(
  encoder: PairEncoder,
  query: string,
  passages: readonly string[],
  maxTokensPerDoc: number | null,
): Promise<EncodedPair[]> {
  const pairs: EncodedPair[] = []
  let sliceEnd = performance.now() + SLICE_MS
  for (const passage of passages) {
    pairs.push(encoder.encode(query, passage, maxTokensPerDoc ?? undefined))
    if (performance.now() > sliceEnd) {
      await setImmediate()
      sliceEnd = performance.now() + SLICE_MS
    }
  }
  return pairs
}
