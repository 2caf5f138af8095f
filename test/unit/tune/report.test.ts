/** What `rankmill tune` says on a terminal and in its page. */
import { expect, it } from 'vitest'
import { linearTicks, logarithmicTicks } from '../../../cli/round-ticks.js'
import { tuneHtml } from '../../../cli/tune-page.js'
import { adviceOf, outcomeTable } from '../../../cli/tune-report.js'
import type { Measured } from '../../../producer/tune/measured.js'
import type { TuningOutcome } from '../../../producer/tune/tuning.js'

const measured = (name: string, speedup: number, qualityShare: number, queries: number): Measured => ({
  configuration: { name, fields: { strategy: { dtype: speedup > 1 ? 'int8' : 'fp32' } } },
  queries,
  quality: 0.7 * qualityShare,
  overlap: qualityShare,
  qualityShare,
  interval: [qualityShare - 0.03, qualityShare + 0.01],
  confidence: 0.97,
  candidatesPerSecond: 40 * speedup,
  speedup,
  msPerRequest: 2000 / speedup,
  tokensPerRequest: 12_000,
  skipped: 0.25,
  onFrontier: true,
})

function outcome(queries: number): TuningOutcome {
  const baseline = measured('rankmill-small fp32', 1, 1, queries)
  const long =
    'rankmill-small int8, prefilter first-stage+rankmill-filter by score keeps 30, cascade nano:15, exit 0.99'
  const fast = measured(long, 6.5, 0.995, queries)
  return {
    measure: 'overlap@10 with the full order',
    within: 0.01,
    sure: 0.95,
    minQueries: 20,
    measured: [fast, baseline],
    dropped: [],
    baseline,
    recommended: queries < 20 ? baseline : fast,
  }
}

it('fits 80 columns, whatever configurations are called', () => {
  const lines = outcomeTable(outcome(40)).split('\n')
  expect(lines.filter((line) => line.length > 80 && !line.includes('█'))).toEqual([])
  expect(lines.join('\n')).toMatch(/flags: --dtype int8/)
})

it('keeps the defaults where too few queries were seen to tell, and recommends nothing', () => {
  const few = outcome(6)
  expect(adviceOf(few)).toEqual({ recommended: undefined, fields: {} })
  const table = outcomeTable(few)
  expect(table).toMatch(/cannot be told from 6 queries: keep the defaults/)
  expect(table).toMatch(/flags: none/)
  expect(table).not.toContain('→ rankmill')
  expect(tuneHtml(few, {})).not.toContain('class="best"')
})

it('makes a page that says how its figures came about, is read in the dark and on paper, and escapes what it was given', () => {
  const page = tuneHtml(outcome(40), { Date: '2026-01-01 10:00 UTC', Passages: '<corpus>.jsonl', Machine: 'a CPU' })
  for (const part of ['2026-01-01', '&lt;corpus&gt;.jsonl', 'a CPU', 'prefers-color-scheme: dark', '@media print'])
    expect(page).toContain(part)
  for (const label of ['candidates a second', 'recommended', 'quality asked for: 99.0 %', 'share of the full model'])
    expect(page).toContain(label)
  expect(page).toMatch(/>100<\/text>/)
  expect(page).not.toMatch(/NaN|undefined|Infinity/)
})

it('puts round numbers on axes', () => {
  expect(linearTicks(0.913, 1.012, 6)).toEqual([0.92, 0.94, 0.96, 0.98, 1])
  expect(linearTicks(-0.1, 0.1, 4)).toEqual([-0.1, -0.05, 0, 0.05, 0.1])
  expect(logarithmicTicks(34, 299)).toEqual([50, 100, 200])
})
