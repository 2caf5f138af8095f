/** Stages: token ids, then logits, of a block of candidates whose scores nobody knows. */
import type { WorkerMetrics } from '../../monitoring/metrics.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import type { Batcher, ScoringRequest } from '../batching/batcher.js'
import type { Lease, PairBudget } from '../batching/pair-budget.js'
import type { GroupScores } from '../batching/scoring-group.js'
import type { Model } from '../model/model.js'
import { type EarlyScore, type StagedScores, scoreByStages } from './early-exit.js'
import {
  type DocumentEncoder,
  type EncodedDocument,
  encodeDocuments,
  placeWindows,
  windowsOf,
} from './encode-documents.js'
import type { ExitPlan } from './exit-plan.js'
import type { Candidate } from './load-candidates.js'
import type { KnownScore } from './score-cache.js'
import { NOTHING_SPENT, type Spent } from './spent.js'

/** What scores candidates. */
export interface PairScorer extends DocumentEncoder {
  readonly batcher: Batcher
  readonly model: Pick<Model, 'exits'>
}

export interface ScoredPairs {
  /** In the candidates' order. */
  readonly scores: readonly (KnownScore | undefined)[]
  /** Those that left the model early, by their places. */
  readonly left: ReadonlyMap<number, EarlyScore>
  readonly spent: Spent
}

/**
 * Nothing of the budget is held but while a block is encoded and scored.
 *
 * @param plan who may leave the model early
 * @param known final logits of the job's other candidates
 * @throws RankmillError of the encoder or the batcher, naming documents by their index in the request; or the signal's
 *   reason
 */
export async function scorePairs(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: PairScorer,
  plan: ExitPlan,
  known: readonly number[],
  { budget, metrics }: { readonly budget: PairBudget; readonly metrics: WorkerMetrics },
  signal: AbortSignal,
): Promise<ScoredPairs> {
  const expected = candidates.reduce((sum, candidate) => sum + pairsExpected(job, candidate, scorer), 0)
  const lease = await budget.take(expected, job, signal)
  try {
    return await scoreLeased(job, candidates, scorer, plan, known, lease, metrics, signal)
  } finally {
    lease.release()
  }
}

async function scoreLeased(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: PairScorer,
  plan: ExitPlan,
  known: readonly number[],
  lease: Lease,
  metrics: WorkerMetrics,
  signal: AbortSignal,
): Promise<ScoredPairs> {
  const startedAt = performance.now()
  const passages = candidates.map((candidate) => candidate.document.text)
  const documents = await metrics.time('tokenize', () => encodeDocuments(scorer, job, passages, signal))
  const tokenizeMs = performance.now() - startedAt
  const pairs = documents.reduce((sum, document) => sum + document.pairs.length, 0)
  lease.resize(pairs)
  const spent = { ...NOTHING_SPENT, pairs, tokens: tokensOf(documents), tokenizeMs, budgetWaitMs: lease.waitedMs }
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
  const { final, left } =
    plan.kind === 'never'
      ? await scoreWhole(documents, run)
      : await scoreByStages(plan, scorer.model.exits, documents, known, (staged, owners, stage, states) =>
          run({ pairs: staged, stage, states }, owners),
        )
  metrics.observeStage('budget_wait', spent.budgetWaitMs)
  metrics.observeStage('batch_wait', spent.batchWaitMs)
  metrics.observeStage('inference', spent.inferenceMs)
  if (job.longDocuments !== 'windows') return { scores: final, left, spent }
  const found = final.map((score, place) => score ?? left.get(place)?.score)
  const placed = await placeWindows(scorer, job, documents, passages, found, signal)
  return {
    scores: final.map((score, place) => score && placed[place]),
    left: new Map([...left].map(([place, early]) => [place, { ...early, score: placed[place] ?? early.score }])),
    spent,
  }
}

async function scoreWhole(
  documents: readonly EncodedDocument[],
  run: (request: Pick<ScoringRequest, 'pairs'>, owners: readonly number[]) => Promise<GroupScores>,
): Promise<StagedScores> {
  const owners = documents.flatMap(({ pairs }, place) => pairs.map(() => place))
  const { logits } = await run({ pairs: documents.flatMap(({ pairs }) => pairs) }, owners)
  let next = 0
  const final = documents.map((document) => {
    const first = next
    next += document.pairs.length
    return document.score(logits.subarray(first, next))
  })
  return { final, left: new Map() }
}

/** About how many pairs a candidate will be, before anything is tokenised. */
function pairsExpected(job: RerankJob, { document }: Candidate, scorer: DocumentEncoder): number {
  if (job.longDocuments !== 'windows') return 1
  return Math.min(scorer.windows.maxWindows, windowsOf(document.text.length, scorer))
}

/** The places of candidates in blocks of at most so many pairs, or one candidate, in their order. */
export function blocksOf(
  job: RerankJob,
  candidates: readonly Candidate[],
  places: readonly number[],
  scorer: DocumentEncoder,
  most: number,
): number[][] {
  const blocks: number[][] = []
  let pairs = Number.POSITIVE_INFINITY
  for (const place of places) {
    const candidate = candidates[place]
    const own = candidate ? pairsExpected(job, candidate, scorer) : 0
    if (pairs + own > most) {
      blocks.push([])
      pairs = 0
    }
    blocks.at(-1)?.push(place)
    pairs += own
  }
  return blocks
}

function tokensOf(documents: readonly EncodedDocument[]): number {
  let tokens = 0
  for (const { pairs } of documents) for (const { ids } of pairs) tokens += ids.length
  return tokens
}

/** A batcher's error names a pair by its place among those it was given; callers know the document's index. */
function inRequest(error: unknown, owners: readonly number[]): unknown {
  if (!(error instanceof RankmillError) || error.details.index === undefined) return error
  const index = owners[error.details.index] ?? error.details.index
  const details = { ...error.details, index, param: `documents.${index}` }
  return new RankmillError(error.code, `documents.${index}: ${error.message}`, details, { cause: error })
}
