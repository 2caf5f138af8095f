/** One job's way through the stages, top to bottom; the one file that composes them. */
import { RankmillError } from '../shared/errors.js'
import type { RerankJob, ScoredPart } from '../shared/protocol/job.js'
import { composePart } from './pipeline/aggregate.js'
import { type Cascaded, cascade } from './pipeline/cascade.js'
import { modelShare } from './pipeline/fuse.js'
import type { Candidate, CandidateLoader } from './pipeline/load-candidates.js'
import { type ScoringStages, scoreCandidates } from './pipeline/score-candidates.js'
import type { Scorer } from './pipeline/scorer.js'
import { sift } from './pipeline/sift.js'
import type { Scorers } from './scorers.js'

/** What the stages need; made once a worker. */
export interface Stages extends ScoringStages {
  readonly loader: CandidateLoader
  readonly scorers: Scorers
  readonly now: () => number
}

/**
 * @param job with times by this process' clock
 * @returns what the job's part of the request came to
 * @throws RankmillError of any stage; or the signal's reason, when the request was cancelled or the worker stops
 */
export async function processJob(
  job: RerankJob,
  scorer: Scorer,
  stages: Stages,
  signal: AbortSignal,
): Promise<ScoredPart> {
  const { metrics, now } = stages
  const queuedMs = Math.max(0, now() - job.submittedAt)
  metrics.observeStage('queued', queuedMs)
  refuseInstruction(job, scorer)
  const { filtered, missing } = await sift(job, stages, signal)
  // Weights that are not there are found out before the work, not after it.
  if (job.fuse && filtered.by) modelShare(job.fuse, scorer.model, filtered.by.opinion.name)
  const cascaded = await runCascade(job, filtered.kept, scorer, stages, signal)
  const scored = await scoreCandidates(job, cascaded.kept, scorer, stages, signal)
  const compose = () => composePart(job, scorer, filtered, cascaded, missing, scored, queuedMs)
  const part = await metrics.time('aggregate', compose)
  const early = scored.after === undefined ? scored.left.size : scored.fromModel
  metrics.pairs.inc({ source: 'model' }, part.usage.scored - early)
  metrics.pairs.inc({ source: 'exit' }, early)
  metrics.pairs.inc({ source: 'cache' }, part.usage.cached)
  metrics.pairs.inc({ source: 'prefilter' }, part.usage.prefiltered)
  metrics.tokens.inc(part.usage.tokens)
  return part
}

/** Models before the request's own may do without; its own would answer something else than was asked. */
function refuseInstruction({ instruction }: RerankJob, { name, model }: Scorer): void {
  if (instruction === undefined || model.prompt) return
  const message = `instruction: ${name} reads plain pairs, and takes none`
  throw new RankmillError('invalid_request', message, { param: 'instruction' })
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
    const { instruction: _, ...untold } = whole
    const own = scorer.model.prompt ? whole : untold
    return { scorer, score: (those) => scoreCandidates(own, those, scorer, stages, signal) }
  })
}
