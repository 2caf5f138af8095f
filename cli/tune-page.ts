/** What `rankmill tune` found, as a page that stands alone: verdict, picture, figures, and how they came about. */
import type { Measured } from '../producer/tune/measured.js'
import type { TuningOutcome } from '../producer/tune/tuning.js'
import { linearTicks, logarithmicTicks } from './round-ticks.js'
import { flagsOf } from './strategy-flags.js'
import { adviceOf, percent, verdict } from './tune-report.js'

/** How the figures came about, by name: data, machine, versions. */
export type Circumstances = Readonly<Record<string, string>>

const [WIDTH, HEIGHT] = [820, 470]
const FRAME = { left: 70, right: WIDTH - 20, top: 20, bottom: HEIGHT - 60 }
const QUALITY_TICKS = 6

const STYLE = `
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --grid: #eceff2; --front: #0b62c4; --other: #8a97a3; --good: #1f7a33; --best: #e6f4e8 }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ec; --soft: #9aa5b1; --line: #39424c; --grid: #222930; --front: #6cb0ff; --other: #76828e; --good: #6fd388; --best: #173322 } }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --grid: #e5e5e5; --front: #0b62c4; --other: #777; --good: #1f7a33; --best: #eee } body { margin: 0; max-width: none } figure, tr { break-inside: avoid } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; background: var(--paper); color: var(--ink) }
h1 { font-size: 1.5rem; margin: 0 0 .5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
code { background: var(--grid); padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere }
figure { margin: 1.5rem 0 } svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--soft) } svg .name { fill: var(--ink) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top } th { font-weight: 600; color: var(--soft) }
th:nth-child(2), td:nth-child(2) { text-align: left } .best td { background: var(--best); font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem } dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
`

export function tuneHtml(outcome: TuningOutcome, circumstances: Circumstances): string {
  const { measure, measured } = outcome
  const { recommended, fields } = adviceOf(outcome)
  const rows = measured.map((m, i) => {
    const cells = [
      i + 1,
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
  const head = [
    '',
    'Configuration',
    'Candidates/s',
    'Times',
    measure,
    'Of full',
    'Skipped',
    'Tokens a request',
    'Queries',
  ]
  const known = Object.entries(circumstances).map(([name, what]) => `<dt>${html(name)}</dt><dd>${html(what)}</dd>`)
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Rankmill: ways to rerank</title>
<style>${STYLE}</style></head><body>
<h1>Ways to rerank</h1>
<p>${html(verdict(outcome))}</p>
<p>Flags: <code>${html(flagsOf(fields) || 'none')}</code></p>
<figure>${picture(outcome, recommended)}
<figcaption>To the right faster, up better; numbers are those of the table. Bars are 95 % intervals over the queries.</figcaption></figure>
<h2>Figures</h2>
<div class="scroll"><table><thead><tr>${head.map((cell) => `<th scope="col">${html(cell)}</th>`).join('')}</tr></thead>
<tbody>
${rows.join('\n')}
</tbody></table></div>
<h2>How they came about</h2>
<dl>${known.join('\n')}</dl>
</body></html>
`
}

function picture({ measured, within, measure, baseline }: TuningOutcome, recommended: Measured | undefined): string {
  const speeds = measured.map(({ candidatesPerSecond }) => candidatesPerSecond)
  const shares = measured.flatMap(({ interval, qualityShare }) => [...interval, qualityShare])
  const [slow, fast] = [Math.min(...speeds) / 1.15, Math.max(...speeds) * 1.15]
  const [low, high] = [Math.min(...shares, 1 - within) - 0.01, Math.max(...shares, 1) + 0.01]
  const across = (speed: number) =>
    FRAME.left + (Math.log(speed / slow) / Math.log(fast / slow)) * (FRAME.right - FRAME.left)
  const up = (share: number) => FRAME.bottom - ((share - low) / (high - low)) * (FRAME.bottom - FRAME.top)
  const at = (value: number) => value.toFixed(1)
  const line = (x1: number, y1: number, x2: number, y2: number, more: string) =>
    `<line x1="${at(x1)}" y1="${at(y1)}" x2="${at(x2)}" y2="${at(y2)}" ${more}/>`
  const grid = [
    ...linearTicks(low, high, QUALITY_TICKS).map(
      (share) =>
        line(FRAME.left, up(share), FRAME.right, up(share), 'stroke="var(--grid)"') +
        `<text x="${FRAME.left - 8}" y="${at(up(share) + 4)}" text-anchor="end">${Number((share * 100).toFixed(2))} %</text>`,
    ),
    ...logarithmicTicks(slow, fast).map(
      (speed) =>
        line(across(speed), FRAME.top, across(speed), FRAME.bottom, 'stroke="var(--grid)"') +
        `<text x="${at(across(speed))}" y="${FRAME.bottom + 18}" text-anchor="middle">${speed}</text>`,
    ),
  ]
  const points = measured.map((m, i) => {
    const [x, y] = [across(m.candidatesPerSecond), up(m.qualityShare)]
    const said = `${i + 1}: ${m.configuration.name}: ${Math.round(m.candidatesPerSecond)} candidates/s, ${percent(m.qualityShare)}`
    const bar = line(x, up(m.interval[0]), x, up(m.interval[1]), 'stroke="var(--line)"')
    const named = m.onFrontier || m === recommended || m === baseline
    const number = named ? `<text class="name" x="${at(x + 8)}" y="${at(y - 7)}">${i + 1}</text>` : ''
    return `<g><title>${html(said)}</title>${bar}${m === recommended ? ring(x, y) : ''}${m === baseline ? square(x, y) : dot(x, y, m.onFrontier)}${number}</g>`
  })
  const frontier = measured
    .filter(({ onFrontier }) => onFrontier)
    .map((m) => `${at(across(m.candidatesPerSecond))},${at(up(m.qualityShare))}`)
  const wanted = 'stroke="var(--good)" stroke-dasharray="5 4"'
  const legend = [
    [dot(0, 0, true), 'nothing is both faster and better'],
    [dot(0, 0, false), 'others'],
    [square(0, 0), 'the full model, compared with'],
    ...(recommended ? [[ring(0, 0), 'recommended']] : []),
    [line(-8, 0, 8, 0, wanted), `quality asked for: ${percent(1 - within)}`],
  ].map(
    ([sign, text], i) =>
      `<g transform="translate(${FRAME.left + 16} ${FRAME.bottom - 14 - 18 * i})">${sign}<text x="16" y="4">${html(text ?? '')}</text></g>`,
  )
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Quality against speed">
${grid.join('')}
<rect x="${FRAME.left}" y="${FRAME.top}" width="${FRAME.right - FRAME.left}" height="${FRAME.bottom - FRAME.top}" fill="none" stroke="var(--line)"/>
${line(FRAME.left, up(1 - within), FRAME.right, up(1 - within), wanted)}
<polyline points="${frontier.join(' ')}" fill="none" stroke="var(--front)"/>
${points.join('\n')}
${legend.join('\n')}
<text x="${(FRAME.left + FRAME.right) / 2}" y="${HEIGHT - 16}" text-anchor="middle">candidates a second (logarithmic)</text>
<text transform="translate(16 ${(FRAME.top + FRAME.bottom) / 2}) rotate(-90)" text-anchor="middle">${html(measure)}, share of the full model's</text>
</svg>`
}

function dot(x: number, y: number, onFrontier: boolean): string {
  return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="4.5" fill="var(--${onFrontier ? 'front' : 'other'})"/>`
}

function square(x: number, y: number): string {
  return `<rect x="${(x - 4.5).toFixed(1)}" y="${(y - 4.5).toFixed(1)}" width="9" height="9" fill="var(--ink)"/>`
}

function ring(x: number, y: number): string {
  return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="9" fill="none" stroke="var(--good)" stroke-width="2"/>`
}

function html(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
}
