/** The one order of candidates, everywhere: score descending, then logit descending, then index ascending. */
export interface Ranked {
  readonly index: number
  readonly score: number
  /** Tells scores apart that an activation has made equal: sigmoids of logits over 37 are all 1. */
  readonly logit?: number
}

export function byRank(a: Ranked, b: Ranked): number {
  return b.score - a.score || byLogit(a, b) || a.index - b.index
}

/** Those without a logit come behind those of the same score that have one. */
function byLogit({ logit: a }: Ranked, { logit: b }: Ranked): number {
  if (a === undefined || b === undefined) return Number(a === undefined) - Number(b === undefined)
  return b - a
}
