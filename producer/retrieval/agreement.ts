/** How much a cheaper way to score agrees with the full one, list by list. */
import { mean, sampleRankCorrelation } from 'simple-statistics'
import { byRank } from '../../shared/protocol/ranking.js'
import { ndcg } from './measures.js'

/** One query's documents, scored in both ways. */
export interface TwiceScored {
  readonly ids: readonly string[]
  readonly full: readonly number[]
  readonly other: readonly number[]
  /** Grades by id; undefined where there are no judgements. */
  readonly grades: ReadonlyMap<string, number> | undefined
}

export interface Agreement {
  /** Spearman's, over all documents of a list; -1 to 1. */
  readonly rankCorrelation: { readonly mean: number; readonly lowest: number }
  /** Share of the full order's first 10 that are among the other's first 10, mean over the lists. */
  readonly overlapAt10: number
  /** Of one document's two scores, over all lists. */
  readonly greatestDifference: number
  /** Means over the judged lists; null where none is. */
  readonly ndcgAt10: { readonly full: number; readonly other: number } | null
}

const FIRST = 10
const MEASURE = ndcg(FIRST)

/** @param lists at least one, none empty */
export function agreementOf(lists: readonly TwiceScored[]): Agreement {
  const correlations = lists.map(({ full, other }) => rankCorrelation(full, other))
  const differences = lists.flatMap(({ full, other }) =>
    full.map((score, i) => Math.abs(score - (other[i] ?? Number.NaN))),
  )
  const judged = lists.flatMap((list) => (list.grades ? [{ ...list, grades: list.grades }] : []))
  const gain = (side: 'full' | 'other') =>
    mean(judged.map((list) => MEASURE.of(orderOf(list.ids, list[side]), list.grades)))
  return {
    rankCorrelation: { mean: mean(correlations), lowest: Math.min(...correlations) },
    overlapAt10: mean(lists.map(overlap)),
    greatestDifference: differences.reduce((most, difference) => Math.max(most, difference), 0),
    ndcgAt10: judged.length > 0 ? { full: gain('full'), other: gain('other') } : null,
  }
}

/** Where one side has all scores equal, there is no correlation: 1 if both do, else 0. */
function rankCorrelation(full: readonly number[], other: readonly number[]): number {
  const isFlat = (scores: readonly number[]) => scores.every((score) => score === scores[0])
  if (isFlat(full) || isFlat(other)) return isFlat(full) && isFlat(other) ? 1 : 0
  return sampleRankCorrelation([...full], [...other])
}

function overlap({ ids, full, other }: TwiceScored): number {
  const wanted = new Set(orderOf(ids, full).slice(0, FIRST))
  const found = orderOf(ids, other).slice(0, FIRST)
  return found.filter((id) => wanted.has(id)).length / wanted.size
}

function orderOf(ids: readonly string[], scores: readonly number[]): string[] {
  const ranked = ids.map((id, index) => ({ id, index, score: scores[index] ?? Number.NaN }))
  return ranked.sort(byRank).map(({ id }) => id)
}
