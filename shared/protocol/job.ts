/** What one entry of the queue holds, and what scored parts and answers look like in Redis. */

import type { ErrorBody } from '../errors.js'
import type { Document } from './documents.js'
import type { RerankRequest } from './request.js'
import type { RerankResult, Timings, Usage, Window } from './result.js'
import type { Strategy } from './strategy.js'

/** A request, or one part of a split one, as it travels through the queue. */
export interface RerankJob extends Strategy {
  /** 1: of release 0.1.0, which knew no generations; 3: with an instruction. */
  readonly v: 1 | 2 | 3
  readonly requestId: string
  /** Whatever is of another than the request's is refused. */
  readonly generation: number
  readonly part: number
  readonly parts: number
  /** Index in the request of this part's first candidate. */
  readonly offset: number
  readonly query: string
  readonly instruction?: string
  /** Whose known scores may be taken; absent: everybody's. */
  readonly cacheSpace?: string
  /** A `traceparent`, for logs. */
  readonly traceParent?: string
  readonly documents: RerankRequest['documents']
  /** Its corpus version is pinned for this request. */
  readonly pinned?: true
  /** Resolved when the request was noted. */
  readonly model: string
  readonly topN: number | null
  readonly returnDocuments: boolean
  readonly maxTokensPerDoc: number | null
  readonly priority: number
  /** Milliseconds since 1970, by Redis' clock. */
  readonly submittedAt: number
  readonly deadlineAt: number | null
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
  readonly dtype: string
  /** Of the model: hash of everything that its scores depend on. */
  readonly fingerprint: string
  readonly candidates: readonly ScoredCandidate[]
  /** Those that were skipped because the corpus lacks them. */
  readonly missing?: readonly MissingCandidate[]
  readonly usage: Usage
  readonly timings: Timings
}

/** What is stored under a request's result key, once a generation. */
export type Answer = ({ readonly result: RerankResult } | { readonly error: ErrorBody }) & {
  readonly generation: number
}

/** How the text of an answer begins that is an error: scripts look at no more. */
export const ERROR_HEAD = '{"error":{"code":"'
