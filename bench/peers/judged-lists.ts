/** Judged queries as lists for a peer, and what the order of its scores is worth. */
import { ndcg } from '../../producer/retrieval/measures.js'
import type { Collection } from '../collections.js'
import type { List } from './peer-lines.js'

const MEASURE = ndcg(10)

export function listsOf({ queries }: Collection): List[] {
  return queries.map(({ query, documents }) => ({ query, documents: documents.map(({ text }) => text) }))
}

/** The first stage's own order. */
export function firstScores({ queries }: Collection): number[] {
  return queries.flatMap(({ documents }) => documents.map(({ score }) => score))
}

/** Mean nDCG@10; candidates of one score stay in the first stage's order. @param scores of all lists, one after the other */
export function meanNdcg({ queries }: Collection, scores: readonly number[]): number {
  let [at, sum] = [0, 0]
  for (const { documents, grades } of queries) {
    const own = scores.slice(at, at + documents.length)
    at += documents.length
    const order = own.map((_, i) => i).sort((a, b) => (own[b] ?? 0) - (own[a] ?? 0) || a - b)
    sum += MEASURE.of(
      order.map((i) => documents[i]?.id ?? ''),
      grades,
    )
  }
  return sum / queries.length
}
