/** Stage: which candidates the model scores, where the request wants a cheaper look at all of them first. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { byRank } from '../../shared/protocol/ranking.js'
import { FIRST_STAGE_FILTER } from '../../shared/protocol/strategy.js'
import type { Urgency } from '../batching/urgency.js'
import type { TextRunner } from '../text/text-tasks.js'
import { bm25 } from './bm25.js'
import { type Keep, keepsAll, keptOf } from './keep.js'
import type { Candidate } from './load-candidates.js'

/** A cheap look at candidates: a score for each, higher is better. */
export interface Filter {
  readonly name: string
  /** Whether it looks at the texts of all candidates; otherwise only of those that have no embedding. */
  readonly readsTexts: boolean
  /** What embeddings of passages depend on, where it looks at those. */
  readonly context?: string
  score(query: string, candidates: readonly Candidate[], urgency: Urgency, signal: AbortSignal): Promise<Looked>
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

export function bm25Filter(texts: TextRunner): Filter {
  return {
    name: 'bm25',
    readsTexts: true,
    score: async (query, candidates, urgency, signal) => {
      const passages = candidates.map(({ document }) => document.text)
      return { scores: await bm25(query, passages, texts, urgency, signal) }
    },
  }
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

/**
 * Best first means by the filter's score, then by index. A filter that would keep everything is run only
 * where its order counts.
 *
 * @throws what the filter throws; or the signal's reason
 */
export async function prefilter(
  { query, topN, fuse, ...urgency }: Pick<RerankJob, 'query' | 'topN' | 'fuse'> & Urgency,
  keep: Keep,
  filter: Filter,
  candidates: readonly Candidate[],
  signal: AbortSignal,
): Promise<Filtered> {
  if (keepsAll(keep, candidates.length, topN) && fuse === null) return { kept: candidates, rest: [] }
  const { scores, parts, embeddings } = await filter.score(query, candidates, urgency, signal)
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
