/** Stage: which candidates the model scores, where the request wants a cheaper look at all of them first. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { byRank } from '../../shared/protocol/ranking.js'
import { FIRST_STAGE_FILTER, type Prefilter } from '../../shared/protocol/strategy.js'
import { bm25 } from './bm25.js'
import type { Candidate } from './load-candidates.js'

/** A cheap look at candidates: a score for each, higher is better. */
export interface Filter {
  readonly name: string
  /** Whether it looks at the texts of all candidates; otherwise only of those that have no embedding. */
  readonly readsTexts: boolean
  /** What embeddings of passages depend on, where it looks at those. */
  readonly context?: string
  score(query: string, candidates: readonly Candidate[], signal: AbortSignal): Promise<Looked>
}

export interface Opinion {
  readonly name: string
  readonly scores: ArrayLike<number>
}

export interface Looked {
  /** In the candidates' order. */
  readonly scores: ArrayLike<number>
  /** What each of several filters said by itself. */
  readonly parts?: readonly Opinion[]
  /** Where candidates are looked at by their embeddings: how many of these went through the model, and how many not. */
  readonly embeddings?: { readonly computed: number; readonly reused: number }
}

export const BM25: Filter = {
  name: 'bm25',
  readsTexts: true,
  score: async (query, candidates, signal) => {
    const passages = candidates.map(({ document }) => document.text)
    return { scores: await bm25(query, passages, signal) }
  },
}

/** What the request says that its first stage gave each document. */
export const FIRST_STAGE: Filter = {
  name: FIRST_STAGE_FILTER,
  readsTexts: false,
  score: async (_, candidates) => {
    const scores = candidates.map(({ index, document: { score } }) => {
      if (score !== undefined) return score
      const message = `documents.${index}: has no score of a first stage`
      throw new RankmillError('invalid_request', message, { param: `documents.${index}` })
    })
    return { scores }
  },
}

export interface Filtered {
  /** Those that the model scores, in the order of the request. */
  readonly kept: readonly Candidate[]
  /** Those that it does not, in the filter's order, best first. */
  readonly rest: readonly Candidate[]
  /** The filter, where one was run. */
  readonly by?: {
    readonly name: string
    /** What fusion is with: the filter, or one of several; its scores of those that were kept, by index. */
    readonly opinion: { readonly name: string; readonly scores: ReadonlyMap<number, number> }
    readonly embeddings?: Looked['embeddings']
  }
}

/** `auto` guards the first so many where a request wants all, and keeps this many at least. */
const AUTO_WANTED = 10
const AUTO_LEAST = 20
/** Standard deviations below the last one wanted at which `auto` stops. */
const AUTO_GAP = 1

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
  if (keepsAll(keep, candidates.length, topN) && fuse === null) return { kept: candidates, rest: [] }
  const { scores, parts, embeddings } = await filter.score(query, candidates, signal)
  const opinion = (fuse === null || fuse.of === null ? undefined : parts?.[fuse.of]) ?? { name: filter.name, scores }
  const ranking = candidates
    .map((candidate, place) => ({ candidate, index: candidate.index, score: scores[place] ?? 0, place }))
    .sort(byRank)
  const count = keptOf(
    keep,
    ranking.map(({ score }) => score),
    topN,
  )
  const kept = ranking.slice(0, count)
  return {
    kept: kept.map(({ candidate }) => candidate).sort((a, b) => a.index - b.index),
    rest: ranking.slice(count).map(({ candidate }) => candidate),
    by: {
      name: filter.name,
      opinion: {
        name: opinion.name,
        scores: new Map(kept.map(({ index, place }) => [index, opinion.scores[place] ?? 0])),
      },
      ...(embeddings ? { embeddings } : {}),
    },
  }
}

/** Whether it is clear before the look that everything would be kept. */
export function keepsAll(keep: Prefilter['keep'], count: number, topN: number | null): boolean {
  return (keep === 'auto' ? leastOf(topN) : numberOf(keep, count)) >= count
}

/**
 * How many candidates are kept. `auto`: those whose score is no more than a standard deviation (of all scores) below that
 * of the last one wanted.
 *
 * @param scores best first
 */
export function keptOf(keep: Prefilter['keep'], scores: readonly number[], topN: number | null): number {
  if (keep !== 'auto') return numberOf(keep, scores.length)
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
  const last = scores[(topN ?? AUTO_WANTED) - 1]
  if (last === undefined) return scores.length
  return Math.max(leastOf(topN), scores.filter((score) => score >= last - AUTO_GAP * deviation).length)
}

function leastOf(topN: number | null): number {
  return Math.max(AUTO_LEAST, topN ?? AUTO_WANTED)
}

function numberOf(keep: number, count: number): number {
  return keep < 1 ? Math.max(1, Math.ceil(count * keep - 1e-9)) : keep
}
