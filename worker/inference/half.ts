/** Model outputs as 32-bit floats; fp16 graphs may give 16-bit ones. */
import type { Tensor } from 'onnxruntime-node'

/** The numbers of a float32 or float16 tensor; throws an Error for other types. */
export function floatsOf(tensor: Tensor): Float32Array {
  if (tensor.type === 'float32') return tensor.data as Float32Array
  if (tensor.type !== 'float16') throw new Error(`the model's output is ${tensor.type}, not float`)
  // Uint16Array up to Node 22, Float16Array from 24 on: the bits are the same.
  const { buffer, byteOffset, length } = tensor.data as Uint16Array
  return Float32Array.from(new Uint16Array(buffer, byteOffset, length), halfToFloat)
}

/** IEEE 754 binary16 bits as a number. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
