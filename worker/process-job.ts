/** One job's way through the stages, top to bottom; the one file that composes them. */
import { UnrecoverableError } from 'bullmq'
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import type { RerankJob } from '../shared/protocol/job.js'
import type { Scripts } from '../shared/redis/scripts.js'
import { composePart } from './pipeline/aggregate.js'
import { type Cascaded, cascade } from './pipeline/cascade.js'
import { modelShare } from './pipeline/fuse.js'
import type { Candidate, CandidateLoader } from './pipeline/load-candidates.js'
import { readJob } from './pipeline/read-job.js'
import { type ScoringStages, scoreCandidates } from './pipeline/score-candidates.js'
import type { Scorer } from './pipeline/scorer.js'
import { sift } from './pipeline/sift.js'
import { writePart } from './pipeline/write-result.js'
import type { Scorers } from './scorers.js'

/** What the stages need; made once a worker. */
export interface Stages extends ScoringStages {
  readonly loader: CandidateLoader
  readonly scorers: Scorers
  readonly scripts: Scripts
  /** What a request was answered with already: by a part that failed, a cancellation, or an earlier attempt. */
  readonly answeredWith: (requestId: string) => Promise<'result' | ErrorCode | undefined>
  readonly now: () => number
}

/**
 * @param data of whatever release
 * @returns whether this job's end was the end of its request
 * @throws RankmillError of any stage; NewerJob for what this release does not understand; or the signal's reason, when the request was cancelled or the worker stops
 */
export async function processJob(data: RerankJob, stages: Stages, signal: AbortSignal): Promise<boolean> {
  const { scorers, scripts, metrics, now } = stages
  const queuedMs = Math.max(0, now() - data.submittedAt)
  metrics.observeStage('queued', queuedMs)
  if (await isOver(data, stages)) return false
  refuseLate(data, now())
  const job = readJob(data)

  const scorer = await scorers.get(job.model, job.dtype)
  const { filtered, missing } = await sift(job, stages, signal)
  // Weights that are not there are found out before the work, not after it.
  if (job.fuse && filtered.by) modelShare(job.fuse, scorer.model, filtered.by.opinion.name)
  const cascaded = await runCascade(job, filtered.kept, scorer, stages, signal)
  const scored = await scoreCandidates(job, cascaded.kept, scorer, stages, signal)
  const compose = () => composePart(job, scorer, filtered, cascaded, missing, scored, queuedMs)
  const part = await metrics.time('aggregate', compose)
  const answered = await metrics.time('write', () => writePart(scripts, job, part, now))
  const early = scored.after === undefined ? scored.left.size : scored.fromModel
  metrics.pairs.inc({ source: 'model' }, part.usage.scored - early)
  metrics.pairs.inc({ source: 'exit' }, early)
  metrics.pairs.inc({ source: 'cache' }, part.usage.cached)
  metrics.pairs.inc({ source: 'prefilter' }, part.usage.prefiltered)
  metrics.tokens.inc(part.usage.tokens)
  return answered
}

/** A part whose sibling failed is not worth scoring, but is kept with it, so that both can be tried again. */
async function isOver(job: RerankJob, { answeredWith }: Stages): Promise<boolean> {
  const outcome = await answeredWith(job.requestId)
  if (outcome === undefined) return false
  if (job.parts === 1 || outcome === 'result' || outcome === 'cancelled' || outcome === 'deadline_exceeded') return true
  throw new UnrecoverableError(`${outcome}: another part of the request failed`)
}

function refuseLate(job: RerankJob, now: number): void {
  if (typeof job.deadlineAt !== 'number' || now <= job.deadlineAt) return
  const message = `the request's deadline passed ${now - job.deadlineAt} ms before a worker could take it up`
  throw new RankmillError('deadline_exceeded', message)
}

function runCascade(
  job: RerankJob,
  candidates: readonly Candidate[],
  last: Scorer,
  stages: Stages,
  signal: AbortSignal,
): Promise<Cascaded> {
  // Only the request's own model is left early.
  const whole: RerankJob = { ...job, exit: 'never' }
  return cascade(job.cascade, job.topN, candidates, last, async ({ model }, place) => {
    const scorer = await stages.scorers.get(model, job.dtype, `strategy.cascade.${place}.model`)
    return { scorer, score: (those) => scoreCandidates(whole, those, scorer, stages, signal) }
  })
}
