/**
 * Okapi BM25 of a request's own candidates, as in Lucene: k1 1.2, b 0.75, idf ln(1 + (N - n + 0.5) / (n + 0.5)).
 * Collection figures are those of the candidates; a term that the query repeats counts as often.
 */
import { setImmediate } from 'node:timers/promises'
import { termsOf } from './terms.js'

const K1 = 1.2
const B = 0.75
/** It runs on the event loop; after so long it lets others go first. */
const SLICE_MS = 8

/** @returns a score for each passage, 0 where it has none of the query's terms; the same on every machine */
export async function bm25(query: string, passages: readonly string[], signal: AbortSignal): Promise<Float64Array> {
  const repeats = new Map<string, number>()
  for (const term of termsOf(query)) repeats.set(term, (repeats.get(term) ?? 0) + 1)
  const terms = new Map([...repeats.keys()].map((term, t) => [term, t]))
  const size = terms.size
  /** How often passage p has term t: counts[p * size + t]. */
  const counts = new Uint32Array(passages.length * size)
  const lengths = new Float64Array(passages.length)
  const having = new Float64Array(size)
  let sliceEnd = performance.now() + SLICE_MS
  for (const [p, passage] of passages.entries()) {
    const words = termsOf(passage)
    lengths[p] = words.length
    for (const word of words) {
      const term = terms.get(word)
      if (term === undefined) continue
      const at = p * size + term
      if (counts[at] === 0) having[term] = (having[term] ?? 0) + 1
      counts[at] = (counts[at] ?? 0) + 1
    }
    if (performance.now() > sliceEnd) {
      await setImmediate()
      signal.throwIfAborted()
      sliceEnd = performance.now() + SLICE_MS
    }
  }
  const mean = lengths.reduce((a, b) => a + b, 0) / Math.max(1, passages.length)
  const weights = [...repeats.values()].map((times, t) => {
    const n = having[t] ?? 0
    return times * Math.log(1 + (passages.length - n + 0.5) / (n + 0.5))
  })
  return lengths.map((length, p) => {
    const norm = K1 * (1 - B + (B * length) / (mean || 1))
    let score = 0
    for (let t = 0; t < size; t++) {
      const count = counts[p * size + t] ?? 0
      if (count > 0) score += ((weights[t] ?? 0) * count * (K1 + 1)) / (count + norm)
    }
    return score
  })
}
