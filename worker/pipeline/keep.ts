/** How many candidates go on after a cheaper look at them, of a prefilter or of a model of a cascade. */
import type { Prefilter } from '../../shared/protocol/strategy.js'

export type Keep = Prefilter['keep']

/** `auto` guards the first so many where a request wants all, and keeps this many at least. */
const AUTO_WANTED = 10
const AUTO_LEAST = 20
/** Standard deviations below the last one wanted at which `auto` stops. */
const AUTO_GAP = 1

/** Whether it is clear before the look that everything would be kept. */
export function keepsAll(keep: Keep, count: number, topN: number | null): boolean {
  return (keep === 'auto' ? leastOf(topN) : numberOf(keep, count)) >= count
}

/**
 * How many candidates are kept. `auto`: those whose score is no more than a standard deviation (of all scores) below that
 * of the last one wanted.
 *
 * @param scores best first
 */
export function keptOf(keep: Keep, scores: readonly number[], topN: number | null): number {
  if (keep !== 'auto') return numberOf(keep, scores.length)
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
  const last = scores[(topN ?? AUTO_WANTED) - 1]
  if (last === undefined) return scores.length
  return Math.max(leastOf(topN), scores.filter((score) => score >= last - AUTO_GAP * deviation).length)
}

function leastOf(topN: number | null): number {
  return Math.max(AUTO_LEAST, topN ?? AUTO_WANTED)
}

function numberOf(keep: number, count: number): number {
  return keep < 1 ? Math.max(1, Math.ceil(count * keep - 1e-9)) : keep
}
