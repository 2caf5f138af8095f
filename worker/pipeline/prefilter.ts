/** Stage: which candidates the model scores, where the request wants a cheaper look at all of them first. */
import type { RerankJob } from '../../shared/job.js'
import { byRank } from '../../shared/ranking.js'
import type { Prefilter } from '../../shared/strategy.js'
import { bm25 } from './bm25.js'
import type { Candidate } from './load-candidates.js'

/** A cheap look at passages: a score for each, higher is better. */
export interface Filter {
  readonly name: string
  score(query: string, passages: readonly string[], signal: AbortSignal): Promise<ArrayLike<number>>
}

export const BM25: Filter = { name: 'bm25', score: bm25 }

export interface Filtered {
  /** Those that the model scores, in the order of the request. */
  readonly kept: readonly Candidate[]
  /** Those that it does not, in the filter's order, best first. */
  readonly rest: readonly Candidate[]
  /** The filter, where one was run. */
  readonly by?: {
    readonly name: string
    /** Its scores of those that were kept, by index. */
    readonly scores: ReadonlyMap<number, number>
  }
}

/** `auto` keeps a fifth, but not fewer than this, nor fewer than are to be returned. */
const AUTO_LEAST = 100
const AUTO_SHARE = 0.2

/**
 * Best first means by the filter's score, then by index. A filter that would keep everything is run only
 * where its order counts.
 *
 * @throws what the filter throws; or the signal's reason
 */
export async function prefilter(
  { query, topN, fuse }: Pick<RerankJob, 'query' | 'topN' | 'fuse'>,
  keep: Prefilter['keep'],
  filter: Filter,
  candidates: readonly Candidate[],
  signal: AbortSignal,
): Promise<Filtered> {
  const count = keptOf(keep, candidates.length, topN)
  if (count >= candidates.length && fuse === null) return { kept: candidates, rest: [] }
  const passages = candidates.map(({ document }) => document.text)
  const scores = await filter.score(query, passages, signal)
  const ranking = candidates
    .map((candidate, i) => ({ candidate, index: candidate.index, score: scores[i] ?? 0 }))
    .sort(byRank)
  const kept = ranking.slice(0, count)
  return {
    kept: kept.map(({ candidate }) => candidate).sort((a, b) => a.index - b.index),
    rest: ranking.slice(count).map(({ candidate }) => candidate),
    by: { name: filter.name, scores: new Map(kept.map(({ index, score }) => [index, score])) },
  }
}

/** How many of so many candidates are kept. */
export function keptOf(keep: Prefilter['keep'], count: number, topN: number | null): number {
  if (keep === 'auto') return Math.max(AUTO_LEAST, Math.ceil(count * AUTO_SHARE), topN === null ? 0 : topN)
  return keep < 1 ? Math.max(1, Math.ceil(count * keep - 1e-9)) : keep
}
