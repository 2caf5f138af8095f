/** How fast a machine runs a model: batches of one shape, as many under way as the engine takes. */
import { syntheticBatch } from './calibration.js'
import type { InferenceEngine } from './engine.js'

export interface Speed {
  readonly pairsPerSecond: number
  readonly tokensPerSecond: number
  /** Mean time of a model call, in its thread. */
  readonly msPerCall: number
}

/**
 * @param size pairs in a call
 * @param length tokens of each pair
 * @param forMs no call is begun later; at least one for each session is measured
 * @throws RankmillError as the engine does
 */
export async function measureSpeed(
  engine: InferenceEngine,
  size: number,
  length: number,
  forMs: number,
  now: () => number,
): Promise<Speed> {
  const call = () => engine.run(syntheticBatch(size, length))
  // The first calls of a shape allocate its memory.
  await Promise.all(Array.from({ length: engine.sessions }, call))
  const startedAt = now()
  let [calls, inferenceMs] = [0, 0]
  const work = async () => {
    do {
      const output = await call()
      calls++
      inferenceMs += output.inferenceMs
    } while (now() < startedAt + forMs)
  }
  await Promise.all(Array.from({ length: engine.slots }, work))
  const seconds = (now() - startedAt) / 1000
  const pairsPerSecond = (calls * size) / seconds
  return { pairsPerSecond, tokensPerSecond: pairsPerSecond * length, msPerCall: inferenceMs / calls }
}
