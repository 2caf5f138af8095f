/**
 * A passage's embedding as it is kept everywhere, in memory, in Redis and beside a corpus: one byte a dimension and a
 * scale. Filters score by nothing else, so that it never shows in a result where an embedding came from.
 */

export interface Embedding {
  /** What the numbers are multiplied by; a float32. */
  readonly scale: number
  readonly values: Int8Array
}

const SCALE_BYTES = 4
const LARGEST = 127

/** Rounds to whole steps of the largest number's 127th part. */
export function quantise(vector: Float32Array): Embedding {
  const scale = Math.fround(vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / LARGEST)
  return { scale, values: Int8Array.from(vector, (value) => (scale === 0 ? 0 : Math.round(value / scale))) }
}

/** The product with a vector of as many dimensions: of vectors of length 1, their cosine. */
export function product(vector: Float32Array, { scale, values }: Embedding): number {
  let sum = 0
  for (let d = 0; d < values.length; d++) sum += (vector[d] ?? 0) * (values[d] ?? 0)
  return sum * scale
}

/** The scale, little-endian, then a byte a dimension. */
export function packEmbedding({ scale, values }: Embedding): Buffer {
  const packed = Buffer.allocUnsafe(SCALE_BYTES + values.length)
  packed.writeFloatLE(scale, 0)
  packed.set(new Uint8Array(values.buffer, values.byteOffset, values.length), SCALE_BYTES)
  return packed
}

/** @returns undefined for what is none */
export function unpackEmbedding(packed: Buffer): Embedding | undefined {
  if (packed.length <= SCALE_BYTES) return undefined
  return {
    scale: packed.readFloatLE(0),
    values: Int8Array.from(packed.subarray(SCALE_BYTES), (byte) => (byte << 24) >> 24),
  }
}
