/** One job's way through the stages, top to bottom; the one file that composes them. */
import type { WorkerMetrics } from '../monitoring/metrics.js'
import type { RerankJob, ScoredPart } from '../shared/protocol/job.js'
import type { PairBudget } from './batching/pair-budget.js'
import { composePart, type Scored } from './pipeline/aggregate.js'
import { type Cascaded, cascade } from './pipeline/cascade.js'
import type { EarlyScore } from './pipeline/early-exit.js'
import { planExit } from './pipeline/exit-plan.js'
import { modelShare } from './pipeline/fuse.js'
import type { Candidate, CandidateLoader } from './pipeline/load-candidates.js'
import type { KnownScore, ScoreCache } from './pipeline/score-cache.js'
import type { ScoreFlights } from './pipeline/score-flights.js'
import { addSpent, NOTHING_SPENT, pairsExpected, scorePairs } from './pipeline/score-pairs.js'
import { sift } from './pipeline/sift.js'
import type { Scorer, Scorers } from './scorers.js'

/** What the stages need; made once a worker. */
export interface Stages {
  readonly loader: CandidateLoader
  readonly scorers: Scorers
  readonly cache: ScoreCache
  readonly flights: ScoreFlights
  readonly budget: PairBudget
  readonly metrics: WorkerMetrics
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

/**
 * Each candidate's score from whoever has it first: the caches, a job that is scoring the same pair, the model. Scores
 * of those that leave the model one by one are known to nobody else.
 */
async function scoreCandidates(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: Scorer,
  { cache, flights, budget, metrics }: Stages,
  signal: AbortSignal,
): Promise<Scored> {
  const plan = planExit(job, scorer.model)
  const after = plan.kind === 'after' ? plan : undefined
  const passages = candidates.map(({ document }) => document.text)
  const context = scorer.context(job.maxTokensPerDoc, job.longDocuments, after && scorer.model.exits[after.exit])
  const keys = cache.keysOf(context, job.query, passages)
  const scores = await metrics.time('cache', () => cache.read(keys))
  let fromModel = 0
  let spent = NOTHING_SPENT
  const left = new Map<number, EarlyScore>()
  for (;;) {
    // What another job has landed since is in this process's cache; nobody else runs between this and the claim.
    cache.recall(keys, scores)
    const open = candidates.flatMap((_, place) => (scores[place] === undefined && !left.has(place) ? [place] : []))
    if (open.length === 0) return { scores, left, after: after?.layer, fromModel, spent }
    const claim = flights.claim(new Map(open.map((place) => [place, cache.pairOf(keys, place)])), job)
    const found = new Map<number, KnownScore>()
    try {
      const mine = claim.mine.flatMap((place) => candidates[place] ?? [])
      if (mine.length > 0) {
        const known = scores.flatMap((score) => score?.logit ?? [])
        const scored = await scoreWithin(budget, job, mine, scorer, plan, known, metrics, signal)
        spent = addSpent(spent, scored)
        claim.mine.forEach((place, i) => {
          const early = scored.left.get(i)
          if (early && !after) left.set(place, early)
          const score = after ? early?.score : scored.scores[i]
          if (!score) return
          found.set(place, score)
          cache.remember(keys, place, score)
          claim.land(place, score)
        })
      }
    } finally {
      claim.release()
    }
    fromModel += claim.mine.length
    for (const [place, score] of found) scores[place] = score
    await cache.write(keys, found)
    if (claim.others.size === 0) continue
    // Those that end without a score leave their places open for the next round.
    const landed = await unlessAborted(Promise.all(claim.others.values()), signal)
    for (const [n, place] of [...claim.others.keys()].entries()) scores[place] = landed[n]
  }
}

/** Nothing of the budget is held while a job waits for another, or the two could wait for each other. */
async function scoreWithin(budget: PairBudget, ...scoring: Parameters<typeof scorePairs>) {
  const [job, candidates, scorer, , , , signal] = scoring
  const giveBack = await budget.take(pairsExpected(job, candidates, scorer), signal)
  try {
    return await scorePairs(...scoring)
  } finally {
    giveBack()
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  let stop: () => void = () => undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
