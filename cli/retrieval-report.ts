/** What `rankmill batch trec --qrels` prints: measures before and after, and how the queries fared. */
import asciichart from 'asciichart'
import Table from 'cli-table3'
import type { Comparison } from '../producer/retrieval/comparison.js'
import { roundStep } from './round-ticks.js'

const DIGITS = 4
/** Columns that asciichart's labels take, and rows of the plot. */
const LABEL_COLUMNS = 11
const PLOT_ROWS = 8
const MAX_PLOT_COLUMNS = 72
const ROUNDING = 1e-9

/** A table of measures: before, after, difference with its 95 % interval, and queries won, lost and tied. */
export function comparisonTable(comparisons: readonly Comparison[]): string {
  const table = new Table({
    head: ['measure', 'before', 'after', 'difference', '95 % interval', 'won', 'lost', 'tied'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
    // No colours: it may go to a file.
    style: { head: [], border: [] },
  })
  for (const { measure, before, after, difference, interval, won, lost, tied } of comparisons) {
    const [low, high] = interval
    table.push([
      measure,
      before.toFixed(DIGITS),
      after.toFixed(DIGITS),
      signed(difference),
      `${signed(low)} to ${signed(high)}`,
      won,
      lost,
      tied,
    ])
  }
  return `${table.toString()}\n`
}

/**
 * A plot of the differences of all queries, best gain first.
 *
 * @param columns of the terminal; more queries than fit are shown by every so many
 */
export function differencePlot({ measure, queries, won, lost, tied, perQuery }: Comparison, columns = 80): string {
  const sorted = perQuery.map(({ difference }) => difference)
  const width = Math.max(2, Math.min(sorted.length, MAX_PLOT_COLUMNS, columns - LABEL_COLUMNS))
  const shown = Array.from({ length: width }, (_, column) => {
    const place = Math.round((column * (sorted.length - 1)) / (width - 1))
    return sorted[place] ?? 0
  })
  const title = `${measure}, after minus before, ${queries} queries: ${won} won, ${lost} lost, ${tied} tied`
  const [low, high] = [Math.min(0, ...shown), Math.max(0, ...shown)]
  if (low === high) return `${title}\n`
  // Bounds at whole steps from zero, so that there is a row for zero and asciichart's labels are those of its rows.
  const step = roundStep((high - low) / PLOT_ROWS)
  const [rowsBelow, rowsAbove] = [Math.ceil(-low / step - ROUNDING), Math.ceil(high / step - ROUNDING)]
  const plot = asciichart.plot([shown.map(() => 0), shown], {
    height: rowsBelow + rowsAbove,
    min: -rowsBelow * step,
    max: rowsAbove * step,
    format: (value) => signed(value).padStart(LABEL_COLUMNS - 3),
  })
  return `${title}\n${plot}\n`
}

function signed(value: number): string {
  const text = value.toFixed(DIGITS)
  return value > 0 && Number(text) !== 0 ? `+${text}` : text.replace(/^-(0\.0+)$/, '$1')
}
