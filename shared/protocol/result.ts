/** What comes back: the answer to a request, as on the wire (README.md). */

export interface Usage {
  /** Pairs of the request. */
  pairs: number
  /** Pairs that went through the model, and through the cheaper ones of a cascade: once for each model. */
  scored: number
  /** Pairs whose score was already known. */
  cached: number
  /** Candidates that the model did not score because a prefilter put them behind. */
  prefiltered: number
  /** Candidates whose embedding a prefilter's model made for this request, each text once; only where it was run. */
  embeddings_computed?: number
  /** Candidates whose embedding was known: stored with the corpus, or from an earlier request; only where it was run. */
  embeddings_reused?: number
  /** Candidates that a cheaper model of `strategy.cascade` put behind; only where one was run. */
  cascaded?: number
  /** Candidates that left the model before its last layer: their scores are estimates. */
  exited_early: number
  /** Tokens that went through the model, padding not counted. */
  tokens: number
  /** Documents of which not every token was read. */
  truncated: number
  /** Windows that documents were read in; only with `long_documents: "windows"`. */
  windows?: number
}

/** Part of a document's text: `text.slice(start, end)`, in UTF-16 code units. */
export interface Window {
  /** Which of the document's windows, from 0. */
  index: number
  start: number
  end: number
}

export interface Timings {
  /** Submission to start of work. */
  queued: number
  tokenize: number
  /** Mean wait of a pair for room among those that the worker holds (option `maxInflightPairs`). */
  budget_wait: number
  /** Mean wait of a pair for its batch. */
  batch_wait: number
  /** This request's share of the model calls. */
  inference: number
  /** Submission to result written. */
  total: number
}

export interface RankedDocument {
  /** Place of the document in the request, from 0. */
  index: number
  id?: string
  /** After the model's activation (sigmoid: 0 to 1). */
  relevance_score: number
  /**
   * The model that scored it, an exit of it (`rankmill-small@layer2`), or what gave it a place and no score: a cheaper model
   * or a prefilter.
   */
  scored_by: string
  /** The window that the score is of; only with `long_documents: "windows"`. */
  window?: Window
  /** The score is of some of the document's sentences; only with `long_documents: "snippet"`. */
  snippet?: true
  document?: { text: string }
}

export interface RerankResult {
  id: string
  model: string
  /** Number format of the model. */
  dtype: string
  /** Hash of everything that the model's scores depend on: all of the result's come from this one. */
  fingerprint: string
  results: RankedDocument[]
  /** Ids that the corpus lacks and that were skipped, as `documents.missing: "skip"` asks; absent where there are none. */
  missing?: string[]
  usage: Usage
  timings_ms: Timings
}
