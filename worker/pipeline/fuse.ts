/**
 * The model's opinion and a prefilter's in one order: by rank, reciprocal rank fusion (Cormack, Clarke and Büttcher
 * 2009), or by score, each in standard deviations from its mean.
 */
import { RankmillError } from '../../shared/errors.js'
import type { ScoredCandidate } from '../../shared/protocol/job.js'
import { byRank } from '../../shared/protocol/ranking.js'
import type { Fuse } from '../../shared/protocol/strategy.js'

/** The constant of the paper: how little the first places matter more than the next. */
const K = 60
/** Added to a standard deviation, as training/evaluate.py does where it learns weights: equal scores are 0 then. */
const LEAST_DEVIATION = 1e-9

/** A candidate that both have an opinion on. */
export interface Opinions {
  readonly candidate: ScoredCandidate
  /** The model's, before its activation. */
  readonly logit: number
  readonly filterScore: number
}

/**
 * Gives each candidate the weighted mean of the two opinions as its score. By rank: of (K + 1) / (K + rank), so that the
 * first of both has 1. By score: of the two z-scores over the given candidates.
 *
 * @param weight share of the model, 0 to 1
 */
export function fuse(opinions: readonly Opinions[], by: Fuse['by'], weight: number): ScoredCandidate[] {
  const candidates = opinions.map(({ candidate }) => candidate)
  const logits = opinions.map(({ logit }) => logit)
  const model =
    by === 'rank' ? ranksOf(candidates.map(({ index }, i) => ({ index, score: logits[i] ?? 0 }))) : zScores(logits)
  const filterScores = opinions.map(({ filterScore }) => filterScore)
  const filter =
    by === 'rank'
      ? ranksOf(candidates.map(({ index }, i) => ({ index, score: filterScores[i] ?? 0 })))
      : zScores(filterScores)
  return candidates.map(({ logit: _, ...candidate }, i) => {
    return { ...candidate, score: weight * (model[i] ?? 0) + (1 - weight) * (filter[i] ?? 0) }
  })
}

/** What ranks from 1 are worth, in the order given. */
export function ranksOf(scored: readonly { readonly index: number; readonly score: number }[]): number[] {
  const worth = new Array<number>(scored.length).fill(0)
  const order = scored.map(({ index, score }, place) => ({ index, score, place })).sort(byRank)
  for (const [i, { place }] of order.entries()) worth[place] = (K + 1) / (K + i + 1)
  return worth
}

/** In standard deviations from their mean. */
export function zScores(scores: readonly number[]): number[] {
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
  return scores.map((score) => (score - mean) / (deviation + LEAST_DEVIATION))
}

/**
 * The model's share of a fusion.
 *
 * @param model its weights are those of `z(model) + weight · z(filter)`, by the filter's name
 * @throws RankmillError `invalid_request` where weights that the model was to bring are not there
 */
export function modelShare(
  { weight }: Pick<Fuse, 'weight'>,
  model: { readonly name: string; readonly fusion: Readonly<Record<string, number>> },
  filter: string,
): number {
  if (weight !== 'learned') return weight
  const { [filter]: learned } = model.fusion
  if (learned !== undefined) return 1 / (1 + learned)
  const names = Object.keys(model.fusion)
  const known = names.length > 0 ? `it has weights for ${names.join(', ')}` : 'it has none'
  const message = `strategy.fuse: ${model.name} has no learned weight for the filter "${filter}" (${known})`
  throw new RankmillError('invalid_request', message, { param: 'strategy.fuse' })
}
