/** Puts entries into the tensors of one model call. */
import { AssembledBatch } from '../inference/packed-batch.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'

/** Row-major [entries, longest], right-padded. */
export function assembleBatch(
  entries: readonly { readonly pair: EncodedPair }[],
  padId: number,
  withTypes: boolean,
): AssembledBatch {
  const length = entries.reduce((longest, { pair }) => Math.max(longest, pair.ids.length), 0)
  const size = entries.length
  const ids = new Int32Array(size * length)
  const mask = new Uint8Array(size * length)
  const types = withTypes ? new Uint8Array(size * length) : null
  for (let row = 0; row < size; row++) {
    const pair = entries[row]?.pair
    if (!pair) continue
    const from = row * length
    const to = from + pair.ids.length
    ids.set(pair.ids, from)
    mask.fill(1, from, to)
    if (types) types.fill(1, Math.min(to, from + pair.secondStart), to)
    if (padId !== 0) ids.fill(padId, to, from + length)
  }
  const prefixes = Int32Array.from(entries, ({ pair }) => pair.prefix ?? 0)
  const shared = prefixes.some((prefix) => prefix > 0) ? { prefixes } : {}
  return new AssembledBatch({ size, length, ids, mask, types, ...shared })
}
