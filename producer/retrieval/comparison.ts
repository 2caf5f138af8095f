/** What reranking changed: a measure before and after, query by query, with how sure the mean difference is. */
import { mean, quantileSorted } from 'simple-statistics'
import { RankmillError } from '../../shared/errors.js'
import { seededRandom } from '../../shared/random.js'
import type { Qrels } from './beir.js'
import { evaluateRun, type Measure, USUAL_MEASURES } from './measures.js'
import type { TrecRun } from './trec-run.js'

export interface QueryDifference {
  readonly queryId: string
  readonly before: number
  readonly after: number
  /** after - before */
  readonly difference: number
}

export interface Comparison {
  readonly measure: string
  readonly queries: number
  /** Means over the queries of the judgements. */
  readonly before: number
  readonly after: number
  readonly difference: number
  /** 95 % of the resampled mean differences lie in it (paired bootstrap, percentiles). */
  readonly interval: readonly [low: number, high: number]
  readonly won: number
  readonly lost: number
  readonly tied: number
  /** Best gain first, ties in the order of the judgements. */
  readonly perQuery: readonly QueryDifference[]
}

export interface ComparisonOptions {
  readonly measures?: readonly Measure[]
  /** Resamples of the bootstrap. */
  readonly resamples?: number
  /** The same seed gives the same interval. */
  readonly seed?: number
}

/** Less than this is rounding: sums of the same terms in another order. */
const ROUNDING = 1e-12
const DEFAULT_RESAMPLES = 10_000
const TAILS = [0.025, 0.975] as const

/**
 * Compares two runs over the same judgements, one comparison a measure (nDCG@10, MRR@10, MAP and R@100 by default).
 *
 * @throws RankmillError `invalid_request` where there are no judgements, or fewer than 100 resamples are asked for
 */
export function compareRuns(
  qrels: Qrels,
  before: TrecRun,
  after: TrecRun,
  { measures = USUAL_MEASURES, resamples = DEFAULT_RESAMPLES, seed = 1 }: ComparisonOptions = {},
): Comparison[] {
  return measures.map((measure) =>
    compareValues(measure.name, evaluateRun(before, qrels, measure), evaluateRun(after, qrels, measure), {
      resamples,
      seed,
    }),
  )
}

/** Compares two sets of values by query; a query that `after` lacks counts as 0 there. */
export function compareValues(
  measure: string,
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
  { resamples = DEFAULT_RESAMPLES, seed = 1 }: Omit<ComparisonOptions, 'measures'> = {},
): Comparison {
  if (before.size === 0)
    throw new RankmillError('invalid_request', 'qrels: must judge at least one query, got 0', { param: 'qrels' })
  if (!Number.isSafeInteger(resamples) || resamples < 100)
    throw new RankmillError('invalid_request', `resamples: must be an integer of at least 100, got ${resamples}`, {
      param: 'resamples',
    })
  const perQuery = [...before].map(([queryId, value]): QueryDifference => {
    const now = after.get(queryId) ?? 0
    const difference = Math.abs(now - value) < ROUNDING ? 0 : now - value
    return { queryId, before: value, after: now, difference }
  })
  const differences = perQuery.map(({ difference }) => difference)
  return {
    measure,
    queries: perQuery.length,
    before: mean(perQuery.map((query) => query.before)),
    after: mean(perQuery.map((query) => query.after)),
    difference: mean(differences),
    interval: bootstrapInterval(differences, resamples, seed),
    won: differences.filter((d) => d > 0).length,
    lost: differences.filter((d) => d < 0).length,
    tied: differences.filter((d) => d === 0).length,
    perQuery: perQuery.sort((a, b) => b.difference - a.difference),
  }
}

/** Percentile bootstrap of the mean: queries are drawn with replacement, each with both of its values. */
function bootstrapInterval(values: readonly number[], resamples: number, seed: number): [number, number] {
  const random = seededRandom(seed)
  // Typed arrays: thousands of queries times ten thousand resamples take a second, copies of samples take ten.
  const differences = Float64Array.from(values)
  const means = new Float64Array(resamples)
  for (let r = 0; r < resamples; r++) {
    let sum = 0
    for (let i = 0; i < differences.length; i++) sum += differences[Math.floor(random() * differences.length)] ?? 0
    means[r] = sum / differences.length
  }
  const sorted = Array.from(means.sort())
  return [quantileSorted(sorted, TAILS[0]), quantileSorted(sorted, TAILS[1])]
}
