/** What one entry of the queue holds, and what scored parts and answers look like in Redis. */

import type { ErrorBody } from '../errors.js'
import type { Document } from './documents.js'
import type { RerankRequest } from './request.js'
import type { RerankResult, Timings, Usage, Window } from './result.js'
import type { Strategy } from './strategy.js'

/** A request, or one part of a split one, as it travels through the queue. */
export interface RerankJob extends Strategy {
  readonly v: 1
  readonly requestId: string
  readonly part: number
  readonly parts: number
  /** Index in the request of this part's first candidate. */
  readonly offset: number
  readonly query: string
  readonly documents: RerankRequest['documents']
  readonly model: string | null
  readonly topN: number | null
  readonly returnDocuments: boolean
  readonly maxTokensPerDoc: number | null
  readonly priority: number
  /** Milliseconds since 1970. */
  readonly submittedAt: number
  readonly deadlineAt: number | null
  readonly resultTtlMs: number
}

/** A candidate with its relevance score; `index` counts in the whole request. */
export interface ScoredCandidate {
  readonly index: number
  readonly score: number
  /** What the score was made of, where it is a model's: it orders rows whose scores are the same number. */
  readonly logit?: number
  /** Where it is not the whole model of the request. */
  readonly scoredBy?: string
  readonly window?: Window
  readonly snippet?: true
  readonly document: Document
}

/** A candidate that the corpus lacks; `index` counts in the whole request. */
export interface MissingCandidate {
  readonly index: number
  readonly id: string
}

/** What one part of a request came to. */
export interface ScoredPart {
  readonly model: string
  readonly candidates: readonly ScoredCandidate[]
  /** Those that were skipped because the corpus lacks them. */
  readonly missing?: readonly MissingCandidate[]
  readonly usage: Usage
  readonly timings: Timings
}

/** What is stored under a request's result key, once. */
export type Answer = { readonly result: RerankResult } | { readonly error: ErrorBody }
