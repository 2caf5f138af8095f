/** Stages: token ids, then logits, of candidates whose scores nobody knows. */
import { setImmediate } from 'node:timers/promises'
import type { WorkerMetrics } from '../../monitoring/metrics.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/job.js'
import type { Batcher } from '../batching/batcher.js'
import { type DocumentEncoder, encodeDocuments, windowsOf } from './encode-documents.js'
import type { Candidate } from './load-candidates.js'
import type { KnownScore } from './score-cache.js'

/** Finding windows in their texts runs on the event loop; after so long it lets others go first. */
const SLICE_MS = 8

/** What scoring took. */
export interface Spent {
  readonly tokens: number
  readonly tokenizeMs: number
  readonly batchWaitMs: number
  readonly inferenceMs: number
}

export const NOTHING_SPENT: Spent = { tokens: 0, tokenizeMs: 0, batchWaitMs: 0, inferenceMs: 0 }

export function addSpent(a: Spent, b: Spent): Spent {
  return {
    tokens: a.tokens + b.tokens,
    tokenizeMs: a.tokenizeMs + b.tokenizeMs,
    batchWaitMs: a.batchWaitMs + b.batchWaitMs,
    inferenceMs: a.inferenceMs + b.inferenceMs,
  }
}

/**
 * @returns a score for each candidate, in their order
 * @throws RankmillError of the encoder or the batcher, naming documents by their index in the request; or the signal's
 *   reason
 */
export async function scorePairs(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: DocumentEncoder & { readonly batcher: Batcher },
  metrics: WorkerMetrics,
  signal: AbortSignal,
): Promise<Spent & { scores: KnownScore[] }> {
  const startedAt = performance.now()
  const passages = candidates.map((candidate) => candidate.document.text)
  const documents = await metrics.time('tokenize', () => encodeDocuments(scorer, job, passages))
  const tokenizeMs = performance.now() - startedAt
  const pairs = documents.flatMap((document) => document.pairs)
  const { priority, deadlineAt } = job
  const request = { pairs, priority, deadlineAt, signal }
  const { logits, batchWaitMs, inferenceMs } = await scorer.batcher.score(request).catch((error) => {
    const owners = documents.flatMap((document, i) => document.pairs.map(() => candidates[i]?.index ?? i))
    throw inRequest(error, owners)
  })
  metrics.observeStage('batch_wait', batchWaitMs)
  metrics.observeStage('inference', inferenceMs)
  let next = 0
  const scores: KnownScore[] = []
  let sliceEnd = performance.now() + SLICE_MS
  for (const document of documents) {
    const first = next
    next += document.pairs.length
    scores.push(document.score(logits.subarray(first, next)))
    if (performance.now() > sliceEnd) {
      await setImmediate()
      sliceEnd = performance.now() + SLICE_MS
    }
  }
  const tokens = pairs.reduce((sum, pair) => sum + pair.ids.length, 0)
  return { scores, tokens, tokenizeMs, batchWaitMs, inferenceMs }
}

/** For the budget, before anything is tokenised: about how many pairs the candidates will be. */
export function pairsExpected(job: RerankJob, candidates: readonly Candidate[], scorer: DocumentEncoder): number {
  if (job.longDocuments !== 'windows') return candidates.length
  const most = scorer.windows.maxWindows
  return candidates.reduce((sum, { document }) => sum + Math.min(most, windowsOf(document.text.length, scorer)), 0)
}

/** A batcher's error names a pair by its place among those it was given; callers know the document's index. */
function inRequest(error: unknown, owners: readonly number[]): unknown {
  if (!(error instanceof RankmillError) || error.details.index === undefined) return error
  const index = owners[error.details.index] ?? error.details.index
  const details = { ...error.details, index, param: `documents.${index}` }
  return new RankmillError(error.code, `documents.${index}: ${error.message}`, details, { cause: error })
}
