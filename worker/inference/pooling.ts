/** From the hidden states of a text's tokens to its embedding, as in sentence-transformers' Pooling and Normalize. */
import { RankmillError } from '../../shared/errors.js'

/**
 * @param hidden [size, length, dimensions]
 * @param mask [size, length], 1 for tokens
 * @returns [size, dimensions]: the mean over a text's tokens, or the first of them
 */
export function poolTokens(
  hidden: Float32Array,
  mask: BigInt64Array,
  size: number,
  length: number,
  pooling: 'mean' | 'cls',
): Float32Array {
  const dimensions = hidden.length / (size * length)
  const pooled = new Float32Array(size * dimensions)
  const sums = new Float64Array(dimensions)
  for (let row = 0; row < size; row++) {
    sums.fill(0)
    let tokens = 0
    for (let i = 0; i < (pooling === 'cls' ? 1 : length); i++) {
      if (mask[row * length + i] === 0n) continue
      tokens++
      const at = (row * length + i) * dimensions
      for (let d = 0; d < dimensions; d++) sums[d] = (sums[d] ?? 0) + (hidden[at + d] ?? 0)
    }
    for (let d = 0; d < dimensions; d++) pooled[row * dimensions + d] = (sums[d] ?? 0) / Math.max(1, tokens)
  }
  return pooled
}

/**
 * Makes every row one of length 1; a row of zeros stays.
 *
 * @throws RankmillError `inference_failed` where a number is not finite
 */
export function normaliseRows(vectors: Float32Array, size: number): Float32Array {
  const dimensions = vectors.length / size
  const unit = new Float32Array(vectors.length)
  for (let row = 0; row < size; row++) {
    let squares = 0
    for (let d = 0; d < dimensions; d++) squares += (vectors[row * dimensions + d] ?? 0) ** 2
    if (!Number.isFinite(squares))
      throw new RankmillError('inference_failed', 'the model gave an embedding with a number that is not finite')
    const length = Math.sqrt(squares) || 1
    for (let d = 0; d < dimensions; d++) unit[row * dimensions + d] = (vectors[row * dimensions + d] ?? 0) / length
  }
  return unit
}
