/** What a run's answers add up to, over all its starts. */
import type { OutputLine } from './batch-line.js'
import type { Checkpoint } from './checkpoint.js'
import { LatencyCounts } from './latency-counts.js'
import type { Answered } from './ready-items.js'

/** Named in the checkpoint and the report; the output has them all. */
const FAILURES_LISTED = 100

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
export type Totals = Mutable<Checkpoint['totals']>

export class RunCounts {
  readonly totals: Totals
  readonly errors: Map<string, number>
  readonly failures: Checkpoint['failures']
  readonly latency: LatencyCounts

  constructor(before: Pick<Checkpoint, 'totals' | 'errors' | 'failures' | 'latency'> | undefined) {
    this.totals = { ...(before?.totals ?? NOTHING) }
    this.errors = new Map(Object.entries(before?.errors ?? {}))
    this.failures = [...(before?.failures ?? [])]
    this.latency = new LatencyCounts(before?.latency)
  }

  toJSON(): Pick<Checkpoint, 'totals' | 'errors' | 'failures' | 'latency'> {
    const { totals, errors, failures, latency } = this
    return { totals, errors: Object.fromEntries(errors), failures, latency: latency.toJSON() }
  }

  /** A line that was found in the output: what went through the model for it, and in what time, it does not say. */
  recover({ code, pairs, truncated }: OutputLine): void {
    this.totals.requests++
    this.totals.pairs += pairs
    this.totals.truncated += truncated
    if (code !== undefined) this.#fail(code)
  }

  add({ item, outcome: { result, error } }: Answered): void {
    const { totals } = this
    totals.requests++
    if (error) {
      const { code, message } = error
      this.#fail(code)
      if (this.failures.length < FAILURES_LISTED) {
        this.failures.push({ line: item.line, custom_id: item.customId, code, message })
      }
      return
    }
    for (const name of ['pairs', 'scored', 'cached', 'tokens', 'truncated'] as const) totals[name] += result.usage[name]
    this.latency.add(result.timings_ms.total)
  }

  #fail(code: string): void {
    this.totals.failed++
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1)
  }
}

const NOTHING: Checkpoint['totals'] = {
  requests: 0,
  failed: 0,
  pairs: 0,
  scored: 0,
  cached: 0,
  tokens: 0,
  truncated: 0,
  seconds: 0,
  starts: 0,
}
