/** One configuration on one query: how good the order is, and what it cost. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { ndcg } from '../retrieval/measures.js'
import type { Configuration } from './configurations.js'

/** What tuning needs of a RerankClient. */
export interface TuningClient {
  rerank(input: RerankInput, wait?: { timeoutMs?: number; signal?: AbortSignal | undefined }): Promise<RerankResult>
}

export interface TuningQuery {
  readonly query: string
  /** `score`: the first stage's, where it is known of all. */
  readonly documents: readonly { readonly id: string; readonly text: string; readonly score?: number }[]
  /** Grades by document; undefined where there are no judgements, and the full order is the measure. */
  readonly grades: ReadonlyMap<string, number> | undefined
}

export interface Trial {
  /** nDCG@10, or the share of the full order's first 10 that are among the first 10. */
  readonly quality: number
  /** The share of the full order's first 10 that are among the first 10: how far it follows the full order, good or not. */
  readonly overlap: number
  readonly ms: number
  readonly candidates: number
  /** Tokens that went through the model. */
  readonly tokens: number
  readonly skipped: number
  readonly first: readonly string[]
}

const FIRST = 10
const MEASURE = ndcg(FIRST)

/**
 * @param full the first documents of the configuration that the others are compared with; undefined for itself
 * @throws RankmillError what the request ends with
 */
export async function tryOut(
  client: TuningClient,
  { fields }: Configuration,
  { query, documents, grades }: TuningQuery,
  full: readonly string[] | undefined,
  signal: AbortSignal,
): Promise<Trial> {
  const startedAt = performance.now()
  const result = await client.rerank({ ...fields, query, documents }, { timeoutMs: Number.POSITIVE_INFINITY, signal })
  const ms = performance.now() - startedAt
  const order = result.results.map(({ id, index }) => {
    if (id === undefined) throw new RankmillError('internal', `documents.${index}: came back without its id`)
    return id
  })
  const first = order.slice(0, FIRST)
  const { tokens, prefiltered, cascaded, exited_early } = result.usage
  const overlap = overlapOf(first, full ?? first)
  return {
    quality: grades ? MEASURE.of(order, grades) : overlap,
    overlap,
    ms,
    candidates: documents.length,
    tokens,
    skipped: prefiltered + exited_early + (cascaded ?? 0),
    first,
  }
}

function overlapOf(first: readonly string[], full: readonly string[]): number {
  const wanted = new Set(full)
  return wanted.size === 0 ? 1 : first.filter((id) => wanted.has(id)).length / wanted.size
}
