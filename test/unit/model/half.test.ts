/** fp16 bits, and what ONNX Runtime says when memory runs out. */
import { expect, test } from 'vitest'
import { halfToFloat } from '../../../worker/inference/half.js'
import { isOutOfMemory } from '../../../worker/inference/session.js'

test.each([
  [0x0000, 0],
  [0x3c00, 1],
  [0xc000, -2],
  [0x3555, 0.333251953125],
  [0x7bff, 65504],
  [0x0001, 2 ** -24],
  [0x7c00, Number.POSITIVE_INFINITY],
  [0xfc00, Number.NEGATIVE_INFINITY],
  [0x7e00, Number.NaN],
])('bits %d are %d', (bits, value) => {
  expect(halfToFloat(bits)).toBe(value)
})

test.each([
  'std::bad_alloc',
  'bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 8589934592',
  'CUDA failure 2: out of memory',
  'CUBLAS_STATUS_ALLOC_FAILED',
  'Array buffer allocation failed',
])('%s: out of memory', (message) => {
  expect(isOutOfMemory(message)).toBe(true)
})

test('other failures are not', () => {
  expect(isOutOfMemory('indices element out of data bounds, idx=99999')).toBe(false)
})
