/** What `rankmill tune` shows: a table and the frontier on a terminal, the same with a picture as a page. */
import Table from 'cli-table3'
import { quantile } from 'simple-statistics'
import type { Measured } from '../producer/tune/measured.js'
import type { TuningOutcome } from '../producer/tune/tuning.js'
import { flagsOf } from './strategy-flags.js'

const BAR_COLUMNS = 30
const BUCKETS = [16, 32, 64, 128, 256, 512, Number.POSITIVE_INFINITY]
const [WIDTH, HEIGHT, MARGIN] = [820, 460, 60]

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

/** Fastest first. */
export function outcomeTable(outcome: TuningOutcome): string {
  const { measure, measured, recommended } = outcome
  const table = new Table({
    head: ['', 'configuration', 'candidates/s', 'times', measure, 'of full', '95 % interval', 'skipped', 'queries'],
    colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: process.stdout.isTTY ? ['bold'] : [], border: process.stdout.isTTY ? ['grey'] : [] },
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  })
  for (const m of measured) {
    const mark = m === recommended ? '→' : m.onFrontier ? '*' : ''
    table.push([
      mark,
      m.configuration.name,
      Math.round(m.candidatesPerSecond),
      m.speedup.toFixed(2),
      m.quality.toFixed(4),
      percent(m.qualityShare),
      `${percent(m.interval[0])} to ${percent(m.interval[1])}`,
      percent(m.skipped),
      m.queries,
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
    'Nothing is both faster and better than these (quality of the full order, speed):',
    ...frontier,
    '',
    verdict(outcome),
    `  flags: ${flagsOf(recommended.configuration.fields)}`,
    '',
  ].join('\n')
}

function verdict({ within, sure, minQueries, baseline, recommended, probable }: TuningOutcome): string {
  const bolder = probable
    ? ` Faster, and good enough on these queries, but in only ${percent(probable.confidence)} of resamplings: ` +
      `${probable.configuration.name}, ${probable.speedup.toFixed(1)} times at ${percent(probable.qualityShare)}.`
    : ''
  if (baseline.queries < minQueries)
    return (
      `→ ${baseline.queries} queries were seen, and a recommendation needs ${minQueries} (--min-queries): stay with ` +
      `${baseline.configuration.name}; --sample and --max-seconds decide how many are seen.`
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

/** A page that stands alone. */
export function tuneHtml(outcome: TuningOutcome, { corpus, queries }: { corpus: string; queries: string }): string {
  const { measure, measured, recommended, baseline } = outcome
  const rows = measured.map((m) => {
    const cells = [
      m.configuration.name,
      Math.round(m.candidatesPerSecond),
      m.speedup.toFixed(2),
      m.quality.toFixed(4),
      `${percent(m.qualityShare)} (${percent(m.interval[0])} to ${percent(m.interval[1])})`,
      percent(m.skipped),
      m.tokensPerRequest,
      m.queries,
    ]
    return `<tr${m === recommended ? ' class="best"' : ''}>${cells.map((cell) => `<td>${html(String(cell))}</td>`).join('')}</tr>`
  })
  const head = ['Configuration', 'Candidates/s', 'Times', measure, 'Of full', 'Skipped', 'Tokens a request', 'Queries']
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Rankmill: ways to rerank</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid #e3e6ea }
th:first-child, td:first-child { text-align: left }
.best td { background: #e8f5e9; font-weight: 600 }
svg text { font: 12px system-ui, sans-serif; fill: #444 }
</style>
<h1>Ways to rerank</h1>
<p>${html(verdict(outcome))}</p>
<p><code>${html(flagsOf(recommended.configuration.fields))}</code></p>
${picture(outcome)}
<p>Each point is a configuration: to the right faster, up better. The line joins those that nothing beats in both; the ring is
the recommendation; the dashed line is the quality that was asked for. Bars are 95 % intervals over the queries.</p>
<table><tr>${head.map((cell) => `<th>${html(cell)}</th>`).join('')}</tr>
${rows.join('\n')}
</table>
<p>${html(`${corpus}, ${queries}; compared with ${baseline.configuration.name}.`)}</p>
</html>
`
}

function picture({ measured, recommended, within }: TuningOutcome): string {
  const speeds = measured.map(({ candidatesPerSecond }) => Math.log10(candidatesPerSecond))
  const shares = measured.flatMap(({ interval, qualityShare }) => [...interval, qualityShare])
  const [left, right] = [Math.min(...speeds) - 0.05, Math.max(...speeds) + 0.05]
  const [low, high] = [Math.min(...shares, 1 - within) - 0.01, Math.max(...shares) + 0.01]
  const x = (m: Measured) =>
    MARGIN + ((Math.log10(m.candidatesPerSecond) - left) / (right - left)) * (WIDTH - 2 * MARGIN)
  const y = (share: number) => HEIGHT - MARGIN - ((share - low) / (high - low)) * (HEIGHT - 2 * MARGIN)
  const at = (value: number) => value.toFixed(1)
  const points = measured.map((m) => {
    const name = `${m.configuration.name}: ${Math.round(m.candidatesPerSecond)} candidates/s, ${percent(m.qualityShare)}`
    const bar = `<line x1="${at(x(m))}" x2="${at(x(m))}" y1="${at(y(m.interval[0]))}" y2="${at(y(m.interval[1]))}" stroke="#bbb"/>`
    const ring =
      m === recommended
        ? `<circle cx="${at(x(m))}" cy="${at(y(m.qualityShare))}" r="9" fill="none" stroke="#2e7d32" stroke-width="2"/>`
        : ''
    const fill = m.onFrontier ? '#1565c0' : '#90a4ae'
    return `${bar}${ring}<circle cx="${at(x(m))}" cy="${at(y(m.qualityShare))}" r="4.5" fill="${fill}"><title>${html(name)}</title></circle>`
  })
  const frontier = measured.filter(({ onFrontier }) => onFrontier).map((m) => `${at(x(m))},${at(y(m.qualityShare))}`)
  const ticks = Array.from({ length: 5 }, (_, i) => low + ((high - low) * i) / 4).map(
    (share) => `<text x="8" y="${at(y(share) + 4)}">${percent(share)}</text>`,
  )
  const speedTicks = Array.from({ length: 5 }, (_, i) => left + ((right - left) * i) / 4).map((log, i) => {
    const place = MARGIN + ((WIDTH - 2 * MARGIN) * i) / 4
    return `<text x="${at(place)}" y="${HEIGHT - MARGIN + 24}" text-anchor="middle">${Math.round(10 ** log)}</text>`
  })
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Quality against speed">
<rect x="${MARGIN}" y="${MARGIN}" width="${WIDTH - 2 * MARGIN}" height="${HEIGHT - 2 * MARGIN}" fill="none" stroke="#e3e6ea"/>
<line x1="${MARGIN}" x2="${WIDTH - MARGIN}" y1="${at(y(1 - within))}" y2="${at(y(1 - within))}" stroke="#2e7d32" stroke-dasharray="5 4"/>
<polyline points="${frontier.join(' ')}" fill="none" stroke="#1565c0"/>
${points.join('\n')}
${ticks.join('')}${speedTicks.join('')}
<text x="${WIDTH / 2}" y="${HEIGHT - 12}" text-anchor="middle">candidates a second</text>
<text x="8" y="${MARGIN - 20}">quality, of the full order's</text>
</svg>`
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`
}

function html(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
}
