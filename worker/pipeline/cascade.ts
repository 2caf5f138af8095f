/** Stage: cheaper models, one after the other, decide which candidates the request's model scores. */
import { RankmillError } from '../../shared/errors.js'
import { byRank } from '../../shared/protocol/ranking.js'
import type { CascadeStage } from '../../shared/protocol/strategy.js'
import { keepsAll, keptOf } from './keep.js'
import type { Candidate } from './load-candidates.js'
import type { KnownScore } from './score-cache.js'
import type { Scored } from './score-candidates.js'
import type { Scorer } from './scorer.js'
import { addSpent, NOTHING_SPENT, type Spent } from './spent.js'

/** A candidate whose place a cheaper model decided. */
export interface Placed {
  readonly candidate: Candidate
  readonly score: KnownScore
  /** That model's name. */
  readonly by: string
  /** The logit that the request's model would give, as near as a learned line comes; undefined where there is none. */
  readonly estimate: number | undefined
}

export interface Cascaded {
  /** Those that the request's model scores, in the order of the request. */
  readonly kept: readonly Candidate[]
  /** The others in their final order: those of a later model first, then by its score, then by index. */
  readonly placed: readonly Placed[]
  /** What went through the cheaper models, and what they had scored before; a candidate counts once a model. */
  readonly fromModel: number
  readonly cached: number
  readonly spent: Spent
}

/** A cheaper model, and how candidates are scored with it. */
export interface StageScorer {
  readonly scorer: { readonly model: Pick<Scorer['model'], 'name' | 'calibrations'> }
  score(candidates: readonly Candidate[]): Promise<Pick<Scored, 'scores' | 'fromModel' | 'spent'>>
}

/**
 * A model that would keep everything is not run; nor is the request's own, which would only decide what it decides anyway.
 *
 * @param last the request's model
 * @param open the model of a stage, by the stage's place
 * @throws what opening and scoring throw
 */
export async function cascade(
  stages: readonly CascadeStage[],
  topN: number | null,
  candidates: readonly Candidate[],
  last: StageScorer['scorer'],
  open: (stage: CascadeStage, place: number) => Promise<StageScorer>,
): Promise<Cascaded> {
  let state: Cascaded = { kept: candidates, placed: [], fromModel: 0, cached: 0, spent: NOTHING_SPENT }
  for (const [place, stage] of stages.entries()) {
    if (keepsAll(stage.keep, state.kept.length, topN)) continue
    const opened = await open(stage, place)
    if (opened.scorer !== last) state = await sieve(state, stage.keep, topN, opened, last.model.name)
  }
  return state
}

async function sieve(
  before: Cascaded,
  keep: CascadeStage['keep'],
  topN: number | null,
  { scorer, score }: StageScorer,
  last: string,
): Promise<Cascaded> {
  const { model } = scorer
  const { scores, fromModel, spent } = await score(before.kept)
  const ranking = before.kept
    .map((candidate, i) => {
      const known = scores[i]
      if (!known) throw new RankmillError('internal', `documents.${candidate.index} was not scored by ${model.name}`)
      return { candidate, known, index: candidate.index, score: known.logit }
    })
    .sort(byRank)
  const count = keptOf(
    keep,
    ranking.map(({ known }) => known.logit),
    topN,
  )
  const line = model.calibrations[last]
  const placed = ranking.slice(count).map(({ candidate, known }) => ({
    candidate,
    score: known,
    by: model.name,
    estimate: line && line.scale * known.logit + line.offset,
  }))
  return {
    kept: ranking
      .slice(0, count)
      .map(({ candidate }) => candidate)
      .sort((a, b) => a.index - b.index),
    placed: [...placed, ...before.placed],
    fromModel: before.fromModel + fromModel,
    cached: before.cached + before.kept.length - fromModel,
    spent: addSpent(before.spent, spent),
  }
}
