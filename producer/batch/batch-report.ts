/** What a run did: enough to repeat it. */
import { createRequire } from 'node:module'
import type { BatchState } from './batch-state.js'
import type { RunChange } from './model-pins.js'
import type { RunCounts, Totals } from './run-counts.js'

const { version } = createRequire(import.meta.url)('rankmill/package.json') as { version: string }

export interface BatchReport {
  /** `interrupted`: run again, it goes on. */
  readonly status: 'finished' | 'interrupted'
  readonly versions: { readonly rankmill: string; readonly node: string; readonly platform: string }
  readonly input: { readonly name: string; readonly fingerprint: string }
  /** Everything that the output depends on beyond the input. */
  readonly settings: Record<string, unknown>
  /** Models that answered; a fingerprint is a hash of all that scores depend on. */
  readonly models: BatchState['loaded']
  /** Versions of corpora that were read. */
  readonly corpora: Record<string, string>
  /** What the run did not begin with and was allowed to go on with: models, corpora, options. */
  readonly changes: readonly RunChange[]
  /** What was counted at the end: as many answers as items, each once, in so many bytes; null where it is not finished. */
  readonly checked: { readonly items: number; readonly answers: number; readonly bytes: number } | null
  readonly started_at: string
  readonly ended_at: string
  /** Over all starts of the run, like the times and percentiles. */
  readonly totals: Totals
  readonly pairs_per_second: number
  readonly errors: Record<string, number>
  /** The first 100 requests that failed. */
  readonly failures: RunCounts['failures']
  /** Submission to answer. */
  readonly latency_ms: Record<'p50' | 'p90' | 'p95' | 'p99', number | null>
}

export function batchReport(state: BatchState): BatchReport {
  const { isFinished } = state
  const { totals, errors, failures, latency } = state.counts
  return {
    status: isFinished ? 'finished' : 'interrupted',
    versions: { rankmill: version, node: process.version, platform: `${process.platform}-${process.arch}` },
    input: state.input,
    settings: state.settings,
    models: state.loaded,
    corpora: state.pins.versions,
    changes: state.changes,
    checked: isFinished ? { items: state.done.items, answers: totals.requests, bytes: state.outputBytes } : null,
    started_at: state.startedAt,
    ended_at: state.endedAt,
    totals: { ...totals, seconds: Math.round(totals.seconds * 100) / 100 },
    pairs_per_second: totals.seconds > 0 ? Math.round(totals.pairs / totals.seconds) : 0,
    errors: Object.fromEntries(errors),
    failures,
    latency_ms: {
      p50: latency.percentile(0.5),
      p90: latency.percentile(0.9),
      p95: latency.percentile(0.95),
      p99: latency.percentile(0.99),
    },
  }
}
