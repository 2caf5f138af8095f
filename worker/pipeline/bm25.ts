/**
 * Okapi BM25 of a request's own candidates, as in Lucene: k1 1.2, b 0.75, idf ln(1 + (N - n + 0.5) / (n + 0.5)).
 * Collection figures are those of the candidates; a term that the query repeats counts as often.
 */
import type { Urgency } from '../batching/urgency.js'
import { type TermsOutput, type TextRunner, tasksOf } from '../text/text-tasks.js'
import { TimeSlice } from '../time-slice.js'

const K1 = 1.2
const B = 0.75

/**
 * Terms are counted where texts are worked on; what comes back is what each passage has of the query's.
 *
 * @returns a score for each passage, 0 where it has none of the query's terms; the same on every machine
 */
export async function bm25(
  query: string,
  passages: readonly string[],
  texts: TextRunner,
  urgency: Urgency,
  signal: AbortSignal,
): Promise<Float64Array> {
  const repeats = new Map<string, number>()
  const asked = await texts.run({ kind: 'split', text: query }, urgency, signal)
  for (const term of asked.terms) repeats.set(term, (repeats.get(term) ?? 0) + 1)
  const terms = [...repeats.keys()]
  const counted = await Promise.all(
    Array.from(tasksOf(passages), ([from, to]) => {
      return texts.run({ kind: 'terms', terms, passages: passages.slice(from, to) }, urgency, signal)
    }),
  )
  const having = new Float64Array(terms.length)
  let total = 0
  for (const { lengths, terms: found } of counted) {
    for (const length of lengths) total += length
    for (const term of found) having[term] = (having[term] ?? 0) + 1
  }
  const mean = total / Math.max(1, passages.length)
  const weights = Array.from(repeats.values(), (times, t) => {
    const n = having[t] ?? 0
    return times * Math.log(1 + (passages.length - n + 0.5) / (n + 0.5))
  })
  const scores: number[] = []
  const slice = new TimeSlice()
  for (const some of counted) {
    for (const score of scoresOf(some, weights, mean)) scores.push(score)
    if (slice.isOver) await slice.pause(signal)
  }
  return Float64Array.from(scores)
}

function* scoresOf({ lengths, counts, terms, times }: TermsOutput, weights: readonly number[], mean: number) {
  let at = 0
  for (const [p, length] of lengths.entries()) {
    const norm = K1 * (1 - B + (B * length) / (mean || 1))
    let score = 0
    for (const end = at + (counts[p] ?? 0); at < end; at++) {
      const count = times[at] ?? 0
      score += ((weights[terms[at] ?? 0] ?? 0) * count * (K1 + 1)) / (count + norm)
    }
    yield score
  }
}
