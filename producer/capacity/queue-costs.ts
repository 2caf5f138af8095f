/**
 * What the queue costs beside the scoring, for the arithmetic of plans: on a 3.7 GHz Zen 4 core, by `npm run bench:scaling`
 * (docs/scaling.md). Another machine's differ by its speed, which a plan's reserve has to bear.
 */

/** Seconds of CPU that a request takes, and each of its candidates of some 400 bytes inline. */
export interface QueueCost {
  readonly perRequest: number
  readonly perCandidate: number
}

export const REDIS_COST: QueueCost = { perRequest: 225e-6, perCandidate: 2.6e-6 }
export const PRODUCER_COST: QueueCost = { perRequest: 440e-6, perCandidate: 3.7e-6 }

/** What Redis keeps of an answered request until `resultTtlMs` is over, and of each of its results. */
export const RESULT_BYTES = { perRequest: 700, perDocument: 45 }
/** What it keeps of a request that waits, beside its texts. */
export const WAITING_BYTES = 1500
/** What it keeps of a score (`scoreCacheTtlMs`), and of each query that has some; see the option's help. */
export const SCORE_BYTES = { perQuery: 300, perPair: 32 }

export function costOf({ perRequest, perCandidate }: QueueCost, candidates: number): number {
  return perRequest + candidates * perCandidate
}
