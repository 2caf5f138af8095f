/** The scores of rows behind those that the request's model scored whole. */

/** By how much of it a score stays below the one before, where what is known of it would put it above. */
const STEP = 1e-9

/**
 * In the rows' order: what is known of a row's score, no higher than the one before it; where nothing is known, a number that
 * only makes the order (score descending) hold. Nothing becomes negative behind a positive score.
 *
 * @param estimates of each row its score on the scale of those before it, or undefined
 * @param lowest the last score before them
 */
export function scoresBehind(estimates: readonly (number | undefined)[], lowest: number): number[] {
  const scores: number[] = []
  let before = lowest
  for (let i = 0; i < estimates.length; i = scores.length) {
    const estimate = estimates[i]
    if (estimate === undefined) {
      const next = estimates.findIndex((other, j) => j > i && other !== undefined)
      const unknown = (next < 0 ? estimates.length : next) - i
      for (let n = 1; n <= unknown; n++) scores.push(below(before, n / (unknown + 1)))
    } else {
      scores.push(estimate < before ? estimate : before - Math.max(Math.abs(before) * STEP, before > 0 ? 0 : STEP))
    }
    before = scores.at(-1) ?? before
  }
  return scores
}

/** A number below `score`, the further the larger the share; between 0 and a positive one. */
function below(score: number, share: number): number {
  return score > 0 ? score * (1 - share) : score - share
}
