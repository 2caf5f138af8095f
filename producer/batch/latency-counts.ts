/** Times by bucket, each 5 % wider than the one before: percentiles over any number of requests, that can be saved. */
const GROWTH = Math.log(1.05)

export class LatencyCounts {
  readonly #buckets = new Map<number, number>()
  #total = 0

  constructor(saved: Readonly<Record<string, number>> = {}) {
    for (const [bucket, count] of Object.entries(saved)) this.#count(Number(bucket), count)
  }

  add(ms: number): void {
    this.#count(Math.round(Math.log(Math.max(ms, 0.01)) / GROWTH), 1)
  }

  /** Milliseconds that a share of the requests stayed under, to within 2.5 %; null where there were none. */
  percentile(share: number): number | null {
    let left = Math.ceil(this.#total * share)
    for (const [bucket, count] of [...this.#buckets].sort(([a], [b]) => a - b)) {
      left -= count
      if (left <= 0) return Number(Math.exp(bucket * GROWTH).toPrecision(3))
    }
    return null
  }

  toJSON(): Record<string, number> {
    return Object.fromEntries(this.#buckets)
  }

  #count(bucket: number, count: number): void {
    this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + count)
    this.#total += count
  }
}
