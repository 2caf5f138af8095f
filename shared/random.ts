/**
 * Numbers from 0 up to 1, the same for the same seed: Tommy Ettinger's mulberry32. 32 bits of state, even enough for
 * resampling and for choices that a test repeats.
 */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
