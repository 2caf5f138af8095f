/** Figures of strategies as tables, and against what was aimed for. */
import { interval, type Paired, ratioOf, resampledRatios } from '../producer/tune/bootstrap.js'

/** One query in one way. */
export interface Figures {
  readonly ms: number
  readonly quality: number
  readonly candidates: number
  /** That went through models. */
  readonly tokens: number
  /** Candidates that a prefilter, a cheaper model, an exit placed. */
  readonly filtered: number
  readonly cascaded: number
  readonly left: number
}

/** By collection, then row: the same queries in the same order for all. */
export type Tables = Map<string, ReadonlyMap<string, readonly Figures[]>>

type Collections = readonly ReadonlyMap<string, readonly Figures[]>[]

interface Summary {
  readonly name: string
  readonly speed: number
  readonly speedRange: readonly [number, number]
  /** Of the baseline's nDCG@10. */
  readonly share: number
  readonly shareRange: readonly [number, number]
}

const AIM = { best: 10, bestShare: 0.99, int8: 1.8, exit: 1.5, exitShare: 0.995, warm: 100 }

export function printTable(title: string, collections: Collections, base: string): void {
  console.log(`\n## ${title}`)
  console.log(
    `${''.padEnd(36)} times (95 %)          candidates/s  nDCG@10  of ${base} (95 %)             skipped; tokens read`,
  )
  for (const name of collections[0]?.keys() ?? []) {
    const { speed, speedRange, share, shareRange } = summaryOf(collections, name, base)
    const each = collections.flatMap((figures) => figures.get(name) ?? [])
    const cells = [
      name.padEnd(36),
      `${speed.toFixed(2)} (${speedRange.map((value) => value.toFixed(2)).join(' to ')})`.padEnd(22),
      ((1000 * sum(each, 'candidates')) / sum(each, 'ms')).toFixed(1).padStart(11),
      mean(collections.map((figures) => sum(figures.get(name) ?? [], 'quality') / (figures.get(name)?.length || 1)))
        .toFixed(4)
        .padStart(8),
      ` ${percent(share)} (${percent(shareRange[0])} to ${percent(shareRange[1])})`.padEnd(28),
      skippedBy(
        each,
        collections.flatMap((figures) => figures.get(base) ?? []),
      ),
    ]
    console.log(cells.join(' '))
  }
}

/** What is aimed for, beside what was measured over all collections. */
export function printAims(collections: Collections, base: string, warm: string): void {
  const all = [...(collections[0]?.keys() ?? [])].map((name) => summaryOf(collections, name, base))
  const alone = all.filter(({ name }) => name !== base && name !== warm)
  const exits = alone.filter(({ name }) => /^exit:\S+$/.test(name))
  console.log('\n## Aims')
  printAim(`${AIM.best} times at ${percent(AIM.bestShare)}, by any`, AIM.best, fastest(alone, AIM.bestShare))
  printAim(
    `int8 ${AIM.int8} times`,
    AIM.int8,
    all.find(({ name }) => name === 'int8'),
  )
  printAim(`exit ${AIM.exit} times at ${percent(AIM.exitShare)}`, AIM.exit, fastest(exits, AIM.exitShare))
  printAim(
    `warm cache ${AIM.warm} times`,
    AIM.warm,
    all.find(({ name }) => name === warm),
  )
}

function printAim(aim: string, times: number, best: Summary | undefined): void {
  const found = best
    ? `${best.speed >= times ? 'reached' : 'missed'}: "${best.name}" ${best.speed.toFixed(2)} times at ${percent(best.share)} ` +
      `(${percent(best.shareRange[0])} to ${percent(best.shareRange[1])})`
    : 'by nothing that was measured'
  console.log(`${aim.padEnd(36)} ${found}`)
}

function fastest(rows: readonly Summary[], share: number): Summary | undefined {
  return rows.filter((row) => row.share >= share).sort((a, b) => b.speed - a.speed)[0]
}

function summaryOf(collections: Collections, name: string, base: string): Summary {
  const paired = (of: 'ms' | 'quality', own: string, other: string): Paired[] =>
    collections.map((figures) => ({
      own: (figures.get(own) ?? []).map((one) => one[of]),
      base: (figures.get(other) ?? []).map((one) => one[of]),
    }))
  const [times, shares] = [paired('ms', base, name), paired('quality', name, base)]
  return {
    name,
    speed: ratioOf(times),
    speedRange: interval(resampledRatios(times)),
    share: ratioOf(shares),
    shareRange: interval(resampledRatios(shares)),
  }
}

/** What the request's model, whole, did not score, by who placed it instead; and tokens of the baseline's. */
function skippedBy(each: readonly Figures[], baseline: readonly Figures[]): string {
  const share = (of: keyof Figures) => sum(each, of) / sum(each, 'candidates')
  const parts = (
    [
      ['filter', share('filtered')],
      ['cascade', share('cascaded')],
      ['exit', share('left')],
    ] as const
  ).flatMap(([name, value]) => (value > 0 ? [`${name} ${percent(value, 0)}`] : []))
  const tokens = sum(each, 'tokens') / sum(baseline, 'tokens')
  return `${parts.join(', ') || 'nothing'}; ${percent(tokens, 0)}`
}

function sum(list: readonly Figures[], of: keyof Figures): number {
  return list.reduce((total, figures) => total + figures[of], 0)
}

function mean(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0) / values.length
}

function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`
}
