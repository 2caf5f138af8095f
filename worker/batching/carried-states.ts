/**
 * What one stage of a model hands to the next, for single pairs: taken out of a batch's tensors without the padding, and
 * put into those of the next batch, which holds other pairs.
 */
import type { States } from '../inference/engine.js'

/** Sizes of a state's axes behind the batch's; null, at most once, is the tokens' axis. */
export type StateShape = readonly (number | null)[]
export type StateShapes = Readonly<Record<string, StateShape>>

/** A row is `before` lines of tokens, or of one where it has no tokens' axis, each of `each` numbers. */
function linesOf(shape: StateShape): { before: number; each: number; perToken: boolean } {
  const axis = shape.indexOf(null)
  const product = (sizes: StateShape) => sizes.reduce<number>((all, size) => all * (size ?? 1), 1)
  if (axis < 0) return { before: 1, each: product(shape), perToken: false }
  return { before: product(shape.slice(0, axis)), each: product(shape.slice(axis + 1)), perToken: true }
}

/**
 * The states of one pair of a batch, without padding.
 *
 * @param length padded tokens of the batch
 * @param tokens of the pair
 */
export function takeStates(batch: States, shapes: StateShapes, row: number, length: number, tokens: number): States {
  const states: Record<string, Float32Array> = {}
  for (const [name, shape] of Object.entries(shapes)) {
    const { before, each, perToken } = linesOf(shape)
    const [padded, kept] = perToken ? [length * each, tokens * each] : [each, each]
    const values = new Float32Array(before * kept)
    for (let line = 0; line < before; line++) {
      const from = (row * before + line) * padded
      values.set(batch[name]?.subarray(from, from + kept) ?? [], line * kept)
    }
    states[name] = values
  }
  return states
}

/**
 * The states of a batch, padded with zeros.
 *
 * @param length padded tokens of the batch
 */
export function putStates(pairs: readonly States[], shapes: StateShapes, length: number): States {
  const batch: Record<string, Float32Array> = {}
  for (const [name, shape] of Object.entries(shapes)) {
    const { before, each, perToken } = linesOf(shape)
    const padded = perToken ? length * each : each
    const values = new Float32Array(pairs.length * before * padded)
    for (const [row, states] of pairs.entries()) {
      const own = states[name] ?? new Float32Array()
      const kept = own.length / before
      for (let line = 0; line < before; line++)
        values.set(own.subarray(line * kept, (line + 1) * kept), (row * before + line) * padded)
    }
    batch[name] = values
  }
  return batch
}
