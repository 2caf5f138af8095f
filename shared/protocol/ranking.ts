/** The one order of candidates, everywhere: score descending, then index ascending. */
export interface Ranked {
  readonly index: number
  readonly score: number
}

export function byRank(a: Ranked, b: Ranked): number {
  return b.score - a.score || a.index - b.index
}
