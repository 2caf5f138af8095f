/** One job's way through the stages, top to bottom; the one file that composes them. */
import { UnrecoverableError } from 'bullmq'
import type { WorkerMetrics } from '../monitoring/metrics.js'
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import type { RerankJob, ScoredPart } from '../shared/job.js'
import type { Scripts } from '../shared/scripts.js'
import type { PairBudget } from './batching/pair-budget.js'
import { encodeDocuments, windowsOf } from './pipeline/encode-documents.js'
import type { Candidate, CandidateLoader } from './pipeline/load-candidates.js'
import type { KnownScore, ScoreCache } from './pipeline/score-cache.js'
import { writePart } from './pipeline/write-result.js'
import type { Scorer, Scorers } from './scorers.js'

/** What the stages need; made once a worker. */
export interface Stages {
  readonly loader: CandidateLoader
  readonly scorers: Scorers
  readonly cache: ScoreCache
  readonly budget: PairBudget
  readonly scripts: Scripts
  readonly metrics: WorkerMetrics
  /** What a request was answered with already: by a part that failed, a cancellation, or an earlier attempt. */
  readonly answeredWith: (requestId: string) => Promise<'result' | ErrorCode | undefined>
  readonly now: () => number
}

/**
 * @returns whether this job's end was the end of its request
 * @throws RankmillError of any stage; or the signal's reason, when the request was cancelled or the worker stops
 */
export async function processJob(job: RerankJob, stages: Stages, signal: AbortSignal): Promise<boolean> {
  const { loader, scorers, cache, budget, scripts, metrics, now } = stages
  const queuedMs = Math.max(0, now() - job.submittedAt)
  metrics.observeStage('queued', queuedMs)
  if (await isOver(job, stages)) return false
  refuseLate(job, now())

  const scorer = await scorers.get(job.model, job.dtype)
  const candidates = await metrics.time('load', () => loader.load(job))
  const passages = candidates.map((candidate) => candidate.document.text)
  const cacheKey = cache.keyOf(scorer.context(job.maxTokensPerDoc, job.longDocuments), job.query)
  const known = await metrics.time('cache', () => cache.read(cacheKey, passages))

  const unknown = candidates.filter((_, i) => known[i] === undefined)
  const giveBack = await budget.take(pairsExpected(job, unknown, scorer), signal)
  try {
    const { scores, ...spent } = await scoreCandidates(job, unknown, scorer, metrics, signal)
    await cache.write(
      cacheKey,
      unknown.map((c) => c.document.text),
      scores,
    )
    const part = metrics.time('aggregate', () =>
      composePart(job, scorer, candidates, known, scores, { ...spent, queuedMs }),
    )
    const answered = await metrics.time('write', async () => writePart(scripts, job, await part, now))
    metrics.pairs.inc({ source: 'model' }, scores.length)
    metrics.pairs.inc({ source: 'cache' }, candidates.length - scores.length)
    metrics.tokens.inc(spent.tokens)
    return answered
  } finally {
    giveBack()
  }
}

/** A part whose sibling failed is not worth scoring, but is kept with it, so that both can be tried again. */
async function isOver(job: RerankJob, { answeredWith }: Stages): Promise<boolean> {
  const outcome = await answeredWith(job.requestId)
  if (outcome === undefined) return false
  if (job.parts === 1 || outcome === 'result' || outcome === 'cancelled' || outcome === 'deadline_exceeded') return true
  throw new UnrecoverableError(`${outcome}: another part of the request failed`)
}

function refuseLate(job: RerankJob, now: number): void {
  if (job.deadlineAt === null || now <= job.deadlineAt) return
  const message = `the request's deadline passed ${now - job.deadlineAt} ms before a worker could take it up`
  throw new RankmillError('deadline_exceeded', message)
}

interface Spent {
  readonly tokens: number
  readonly tokenizeMs: number
  readonly batchWaitMs: number
  readonly inferenceMs: number
}

async function scoreCandidates(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: Scorer,
  metrics: WorkerMetrics,
  signal: AbortSignal,
): Promise<Spent & { scores: KnownScore[] }> {
  if (candidates.length === 0) return { scores: [], tokens: 0, tokenizeMs: 0, batchWaitMs: 0, inferenceMs: 0 }
  const startedAt = performance.now()
  const passages = candidates.map((candidate) => candidate.document.text)
  const documents = await metrics.time('tokenize', () => encodeDocuments(scorer, job, passages))
  const tokenizeMs = performance.now() - startedAt
  const pairs = documents.flatMap((document) => document.pairs)
  const { priority, deadlineAt } = job
  const request = { pairs, priority, deadlineAt, signal }
  const { logits, batchWaitMs, inferenceMs } = await scorer.batcher.score(request).catch((error) => {
    throw inRequest(
      error,
      documents.flatMap((document, i) => document.pairs.map(() => candidates[i]?.index ?? i)),
    )
  })
  metrics.observeStage('batch_wait', batchWaitMs)
  metrics.observeStage('inference', inferenceMs)
  let next = 0
  const scores = documents.map((document) => {
    const first = next
    next += document.pairs.length
    return document.score(logits.subarray(first, next))
  })
  return {
    scores,
    tokens: pairs.reduce((sum, pair) => sum + pair.ids.length, 0),
    tokenizeMs,
    batchWaitMs,
    inferenceMs,
  }
}

/** For the budget, before anything is tokenised: about how many pairs the candidates will be. */
function pairsExpected(job: RerankJob, candidates: readonly Candidate[], scorer: Scorer): number {
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

function composePart(
  job: RerankJob,
  scorer: Scorer,
  candidates: readonly Candidate[],
  known: readonly (KnownScore | undefined)[],
  scores: readonly KnownScore[],
  spent: Spent & { queuedMs: number },
): ScoredPart {
  let next = 0
  let truncated = 0
  let windows = 0
  const scored = candidates.map(({ index, document }, i) => {
    const score = known[i] ?? scores[next++]
    if (!score) throw new RankmillError('internal', `documents.${index} was not scored`)
    if (score.truncated) truncated++
    const { logit, snippet } = score
    const { count, ...window } = score.window ?? { count: 0 }
    windows += count
    return {
      index,
      score: scorer.activate(logit),
      ...('index' in window ? { window } : {}),
      ...(snippet ? { snippet } : {}),
      document,
    }
  })
  return {
    model: scorer.model.name,
    candidates: scored,
    usage: {
      pairs: candidates.length,
      scored: scores.length,
      cached: candidates.length - scores.length,
      prefiltered: 0,
      exited_early: 0,
      tokens: spent.tokens,
      truncated,
      ...(job.longDocuments === 'windows' ? { windows } : {}),
    },
    timings: {
      queued: spent.queuedMs,
      tokenize: spent.tokenizeMs,
      batch_wait: spent.batchWaitMs,
      inference: spent.inferenceMs,
      total: 0,
    },
  }
}
