/** What `rankmill tune` says on a terminal: a table, the frontier, and what it advises. */
import { quantile } from 'simple-statistics'
import type { Measured } from '../producer/tune/measured.js'
import type { TuningOutcome } from '../producer/tune/tuning.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { flagsOf } from './strategy-flags.js'
import { plainTable } from './table.js'

const BAR_COLUMNS = 30
const BUCKETS = [16, 32, 64, 128, 256, 512, Number.POSITIVE_INFINITY]
/** Of the table, so that all of it has room in 80. */
const NAME_COLUMNS = 28

/** How long the documents are, in tokens of the first model. */
export function lengthHistogram(lengths: readonly number[]): string {
  const total = lengths.reduce((sum, length) => sum + length, 0)
  const rows = BUCKETS.map((limit, i) => {
    const above = BUCKETS[i - 1] ?? 0
    const count = lengths.filter((length) => length > above && length <= limit).length
    const label = Number.isFinite(limit) ? `${above + 1} to ${limit}` : `over ${above}`
    return `  ${label.padStart(12)}  ${'█'.repeat(Math.round((count / lengths.length) * BAR_COLUMNS))} ${percent(count / lengths.length)}`
  })
  const cuts = [256, 128, 64].map((limit) => {
    const read = lengths.reduce((sum, length) => sum + Math.min(length, limit), 0)
    return `${limit}: ${percent(read / total)}`
  })
  const middle = `median ${quantile([...lengths], 0.5)}, 90 % have at most ${quantile([...lengths], 0.9)}`
  return `rankmill: tokens of a document (${middle})\n${rows.join('\n')}\n  of all tokens are read with --max-tokens-per-doc ${cuts.join(', ')}`
}

/** Fastest first, in 80 columns; `--json` and the page have more. */
export function outcomeTable(outcome: TuningOutcome): string {
  const { measure, measured } = outcome
  const { recommended } = adviceOf(outcome)
  const table = plainTable(['', 'configuration', 'cand./s', 'times', 'of full', '95 % interval', 'skipped'], {
    colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right'],
    colWidths: [3, NAME_COLUMNS, 9, 7, 9, 15, 9],
    wordWrap: true,
  })
  for (const m of measured) {
    const mark = m === recommended ? '→' : m.onFrontier ? '*' : ''
    table.push([
      mark,
      m.configuration.name,
      Math.round(m.candidatesPerSecond),
      m.speedup.toFixed(2),
      percent(m.qualityShare),
      `${(m.interval[0] * 100).toFixed(1)}–${percent(m.interval[1])}`,
      percent(m.skipped),
    ])
  }
  const frontier = measured
    .filter(({ onFrontier }) => onFrontier)
    .map((m) => {
      const most = measured[0]?.speedup ?? 1
      const bar = '█'.repeat(Math.max(1, Math.round((m.speedup / most) * BAR_COLUMNS)))
      return `  ${percent(m.qualityShare).padStart(7)} ${bar} ${m.speedup.toFixed(1)} times: ${m.configuration.name}`
    })
  return [
    table.toString(),
    '',
    `Of full: ${measure}, beside ${outcome.baseline.configuration.name}; ${outcome.baseline.queries} queries.`,
    'Nothing is both faster and better than these (quality of the full order, speed):',
    ...frontier,
    '',
    ...wrapped(verdict(outcome)),
    `  flags: ${flagsOf(adviceOf(outcome).fields) || 'none'}`,
    '',
  ].join('\n')
}

/** What to use from now on; where too few queries were seen to tell, the defaults, and no configuration is recommended. */
export function adviceOf({ baseline, minQueries, recommended }: TuningOutcome): {
  recommended: Measured | undefined
  fields: Pick<RerankInput, 'model' | 'topN' | 'maxTokensPerDoc' | 'strategy'>
} {
  if (baseline.queries < minQueries) return { recommended: undefined, fields: {} }
  return { recommended, fields: recommended.configuration.fields }
}

export function verdict({ within, sure, minQueries, baseline, recommended, probable }: TuningOutcome): string {
  const bolder = probable
    ? ` Faster, and good enough on these queries, but in only ${percent(probable.confidence)} of resamplings: ` +
      `${probable.configuration.name}, ${probable.speedup.toFixed(1)} times at ${percent(probable.qualityShare)}.`
    : ''
  if (baseline.queries < minQueries)
    return (
      `→ This cannot be told from ${baseline.queries} queries: keep the defaults, which need no flags. A recommendation ` +
      `needs ${minQueries} (--min-queries); --sample and --max-seconds decide how many are seen.`
    )
  if (recommended === baseline)
    return (
      `→ Nothing faster keeps ${percent(1 - within)} of the quality in ${percent(sure)} of resamplings of the ` +
      `${baseline.queries} queries: stay with ${baseline.configuration.name}.${bolder}`
    )
  return (
    `→ ${recommended.configuration.name}: ${recommended.speedup.toFixed(1)} times the candidates a second at ` +
    `${percent(recommended.qualityShare)} of the quality. That it keeps ${percent(1 - within)} holds in ` +
    `${percent(recommended.confidence)} of resamplings of the ${recommended.queries} queries.${bolder}`
  )
}

/** Cut at words, for a terminal. */
function wrapped(text: string): string[] {
  return text.match(/.{1,80}(\s|$)/g)?.map((line) => line.trimEnd()) ?? []
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`
}
