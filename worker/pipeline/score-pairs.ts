/** Stages: token ids, then logits, of candidates whose scores nobody knows. */
import { setImmediate } from 'node:timers/promises'
import type { WorkerMetrics } from '../../monitoring/metrics.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import type { Batcher, ScoringRequest } from '../batching/batcher.js'
import type { GroupScores } from '../batching/scoring-group.js'
import type { Model } from '../model/model.js'
import { type EarlyScore, type StagedScores, scoreByStages } from './early-exit.js'
import { type DocumentEncoder, type EncodedDocument, encodeDocuments, windowsOf } from './encode-documents.js'
import type { ExitPlan } from './exit-plan.js'
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

/** What scores candidates. */
export interface PairScorer extends DocumentEncoder {
  readonly batcher: Batcher
  readonly model: Pick<Model, 'exits'>
}

/**
 * @param plan who may leave the model early
 * @param known final logits of the job's other candidates
 * @returns a score for each candidate, in their order; those that left the model early have theirs in `left`
 * @throws RankmillError of the encoder or the batcher, naming documents by their index in the request; or the signal's
 *   reason
 */
export async function scorePairs(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: PairScorer,
  plan: ExitPlan,
  known: readonly number[],
  metrics: WorkerMetrics,
  signal: AbortSignal,
): Promise<Spent & { scores: (KnownScore | undefined)[]; left: ReadonlyMap<number, EarlyScore> }> {
  const startedAt = performance.now()
  const passages = candidates.map((candidate) => candidate.document.text)
  const documents = await metrics.time('tokenize', () => encodeDocuments(scorer, job, passages))
  const tokenizeMs = performance.now() - startedAt
  const pairs = documents.flatMap((document) => document.pairs)
  const tokens = pairs.reduce((sum, pair) => sum + pair.ids.length, 0)
  const spent = { tokens, tokenizeMs, batchWaitMs: 0, inferenceMs: 0 }
  const run = async (request: Pick<ScoringRequest, 'pairs' | 'stage' | 'states'>, owners: readonly number[]) => {
    const { priority, deadlineAt } = job
    const scored = await scorer.batcher.score({ ...request, priority, deadlineAt, signal }).catch((error) => {
      throw inRequest(
        error,
        owners.map((place) => candidates[place]?.index ?? place),
      )
    })
    spent.batchWaitMs += scored.batchWaitMs
    spent.inferenceMs += scored.inferenceMs
    return scored
  }
  const scored =
    plan.kind === 'never'
      ? await scoreWhole(documents, run)
      : await scoreByStages(plan, scorer.model.exits, documents, known, (staged, owners, stage, states) =>
          run({ pairs: staged, stage, states }, owners),
        )
  metrics.observeStage('batch_wait', spent.batchWaitMs)
  metrics.observeStage('inference', spent.inferenceMs)
  return { scores: scored.final, left: scored.left, ...spent }
}

async function scoreWhole(
  documents: readonly EncodedDocument[],
  run: (request: Pick<ScoringRequest, 'pairs'>, owners: readonly number[]) => Promise<GroupScores>,
): Promise<StagedScores> {
  const owners = documents.flatMap(({ pairs }, place) => pairs.map(() => place))
  const { logits } = await run({ pairs: documents.flatMap(({ pairs }) => pairs) }, owners)
  let next = 0
  const final: KnownScore[] = []
  let sliceEnd = performance.now() + SLICE_MS
  for (const document of documents) {
    const first = next
    next += document.pairs.length
    final.push(document.score(logits.subarray(first, next)))
    if (performance.now() > sliceEnd) {
      await setImmediate()
      sliceEnd = performance.now() + SLICE_MS
    }
  }
  return { final, left: new Map() }
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
