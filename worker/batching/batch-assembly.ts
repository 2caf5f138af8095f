/** Puts entries into the tensors of one model call. */
import type { Batch } from '../inference/engine.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'

/**
 * Row-major int64 tensors [entries, longest], right-padded. Written through 32-bit views: BigInt stores are ten times
 * slower, and token ids fit (the upper halves stay zero; all platforms of ONNX Runtime are little-endian).
 */
export function assembleBatch(
  entries: readonly { readonly pair: EncodedPair }[],
  padId: number,
  withTypes: boolean,
): Batch {
  const length = entries.reduce((longest, { pair }) => Math.max(longest, pair.ids.length), 0)
  const size = entries.length
  const inputIds = new BigInt64Array(size * length)
  const attentionMask = new BigInt64Array(size * length)
  const tokenTypeIds = withTypes ? new BigInt64Array(size * length) : null
  const ids = new Int32Array(inputIds.buffer)
  const mask = new Int32Array(attentionMask.buffer)
  const types = tokenTypeIds ? new Int32Array(tokenTypeIds.buffer) : null
  for (let row = 0; row < size; row++) {
    const pair = entries[row]?.pair
    if (!pair) continue
    const count = pair.ids.length
    let at = row * length * 2
    for (let i = 0; i < count; i++, at += 2) {
      ids[at] = pair.ids[i] ?? 0
      mask[at] = 1
      if (types && i >= pair.secondStart) types[at] = 1
    }
    if (padId !== 0) for (let i = count; i < length; i++, at += 2) ids[at] = padId
  }
  const prefixes = Int32Array.from(entries, ({ pair }) => pair.prefix ?? 0)
  const shared = prefixes.some((prefix) => prefix > 0) ? { prefixes } : {}
  return { size, length, inputIds, attentionMask, tokenTypeIds, ...shared }
}
