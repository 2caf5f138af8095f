/** How sure a ratio of two means is: the bootstrap (Efron 1979) over queries, paired. */
import { seededRandom } from '../../shared/random.js'

/** Two values of each query of a collection, in the same order. */
export interface Paired {
  readonly own: readonly number[]
  readonly base: readonly number[]
}

const RESAMPLES = 2000
const SEED = 1

/**
 * The ratio of the means, of several collections the sum of their means, so that each counts the same whatever its size.
 * 1 where the base is 0.
 */
export function ratioOf(collections: readonly Paired[]): number {
  return ratio(collections, (collection, at) => at % collection.base.length)
}

/** The same over queries drawn with replacement, within each collection; rising. The same values every time. */
export function resampledRatios(collections: readonly Paired[]): Float64Array {
  const random = seededRandom(SEED)
  return Float64Array.from({ length: RESAMPLES }, () =>
    ratio(collections, ({ base }) => Math.floor(random() * base.length)),
  ).sort()
}

/** Where 95 % of the resampled ratios lie. */
export function interval(ratios: Float64Array): readonly [low: number, high: number] {
  const at = (share: number) => ratios[Math.min(ratios.length - 1, Math.floor(ratios.length * share))] ?? 1
  return [at(0.025), at(0.975)]
}

function ratio(collections: readonly Paired[], draw: (collection: Paired, at: number) => number): number {
  let [own, base] = [0, 0]
  for (const collection of collections) {
    const size = Math.min(collection.own.length, collection.base.length)
    for (let i = 0; i < size; i++) {
      const at = draw(collection, i)
      own += (collection.own[at] ?? 0) / size
      base += (collection.base[at] ?? 0) / size
    }
  }
  return base === 0 ? 1 : own / base
}
