/** Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) of the model's order with a prefilter's. */
import type { ScoredCandidate } from '../../shared/job.js'
import { byRank } from '../../shared/ranking.js'

/** The constant of the paper: how little the first places matter more than the next. */
const K = 60

/**
 * Gives each candidate the fusion of its two ranks as its score: K + 1 times the weighted mean of 1 / (K + rank), so that
 * the first of both has 1.
 *
 * @param filterRanks by the candidates' indexes, from 1
 * @param weight share of the model's rank, 0 to 1
 */
export function fuse(
  scored: readonly ScoredCandidate[],
  filterRanks: ReadonlyMap<number, number>,
  weight: number,
): ScoredCandidate[] {
  const part = (rank: number) => (K + 1) / (K + rank)
  return [...scored].sort(byRank).map((candidate, i) => {
    const byFilter = filterRanks.get(candidate.index) ?? scored.length
    return { ...candidate, score: weight * part(i + 1) + (1 - weight) * part(byFilter) }
  })
}
