/** What is said about a change of rankings: means, wins, how sure it is, and how that is shown. */
import { describe, expect, it } from 'vitest'
import { comparisonTable, differencePlot } from '../../../cli/retrieval-report.js'
import { compareRuns, compareValues } from '../../../producer/retrieval/comparison.js'
import { rankingOf } from '../../../producer/retrieval/trec-run.js'

const run = (...rows: [string, string[]][]) =>
  new Map(
    rows.map(([query, docIds]) => [
      query,
      rankingOf(
        docIds,
        docIds.map((_, i) => -i),
      ),
    ]),
  )
const qrels = new Map(['won', 'lost', 'tied', 'gone'].map((query) => [query, new Map([['x', 1]])]))
const before = run(['won', ['a', 'x']], ['lost', ['x', 'a']], ['tied', ['a', 'b', 'x']], ['gone', ['a', 'x']])
const after = run(['won', ['x', 'a']], ['lost', ['a', 'b', 'c', 'x']], ['tied', ['b', 'a', 'x']], ['other', ['x']])

/** Values with a known spread. */
const values = (count: number, value: (i: number) => number) =>
  new Map(Array.from({ length: count }, (_, i) => [`q${i}`, value(i)]))

describe('compareRuns', () => {
  it('compares the usual measures by query', () => {
    const comparisons = compareRuns(qrels, before, after)
    expect(comparisons.map(({ measure }) => measure)).toEqual(['nDCG@10', 'MRR@10', 'MAP', 'R@100'])
    const mrr = comparisons[1]!
    expect(mrr).toMatchObject({ queries: 4, won: 1, lost: 2, tied: 1 })
    expect(mrr.before).toBeCloseTo((1 / 2 + 1 + 1 / 3 + 1 / 2) / 4, 12)
    expect(mrr.after).toBeCloseTo((1 + 1 / 4 + 1 / 3) / 4, 12)
    expect(mrr.difference).toBeCloseTo(mrr.after - mrr.before, 12)
    expect(mrr.perQuery).toEqual([
      { queryId: 'won', before: 0.5, after: 1, difference: 0.5 },
      { queryId: 'tied', before: 1 / 3, after: 1 / 3, difference: 0 },
      { queryId: 'gone', before: 0.5, after: 0, difference: -0.5 },
      { queryId: 'lost', before: 1, after: 0.25, difference: -0.75 },
    ])
    expect(comparisons[3]).toMatchObject({ before: 1, after: 0.75, won: 0, lost: 1, tied: 3 })
  })

  it('refuses to compare nothing', () => {
    expect(() => compareRuns(new Map(), before, after)).toThrow('qrels: must judge at least one query, got 0')
    expect(() => compareRuns(qrels, before, after, { resamples: 10 })).toThrow('at least 100, got 10')
  })
})

describe('the interval', () => {
  it('is that of the normal distribution where queries are many', () => {
    // Differences of +-1 around 0.2: the mean's standard error is sqrt(1 - 0.04) / sqrt(n).
    const n = 1000
    const { difference, interval } = compareValues(
      'm',
      values(n, () => 0),
      values(n, (i) => (i % 5 < 3 ? 1 : -1)),
    )
    expect(difference).toBeCloseTo(0.2, 12)
    const half = 1.96 * Math.sqrt(0.96 / n)
    expect(Math.abs(interval[0] - (difference - half))).toBeLessThan(0.05 * half)
    expect(Math.abs(interval[1] - (difference + half))).toBeLessThan(0.05 * half)
  })

  it('is the same for the same seed and differs for another', () => {
    const of = (seed: number) =>
      compareValues(
        'm',
        values(50, () => 0),
        values(50, (i) => Math.sin(i)),
        { seed, resamples: 500 },
      ).interval
    expect(of(7)).toEqual(of(7))
    expect(of(7)).not.toEqual(of(8))
  })

  it('has no width where every query changed alike', () => {
    const { interval, tied } = compareValues(
      'm',
      values(9, () => 0.5),
      values(9, () => 0.5),
    )
    expect(interval).toEqual([0, 0])
    expect(tied).toBe(9)
  })
})

describe('the report', () => {
  it('shows each measure with its interval and wins', () => {
    const table = comparisonTable(compareRuns(qrels, before, after))
    const row = table.split('\n').find((line) => line.includes('MRR@10'))
    expect(row).toMatch(/│ MRR@10\s+│\s+0.5833 │\s+0.3958 │\s+-0.1875 │\s+-0\.\d{4} to \+0\.\d{4} │\s+1 │\s+2 │\s+1 │/)
  })

  it('draws the differences from the best to the worst, within the columns', () => {
    const comparison = compareValues(
      'nDCG@10',
      values(500, () => 0.5),
      values(500, (i) => 0.1 + (0.8 * i) / 499),
    )
    const [title, ...plot] = differencePlot(comparison, 60).trimEnd().split('\n')
    expect(title).toBe('nDCG@10, after minus before, 500 queries: 250 won, 250 lost, 0 tied')
    for (const line of plot) expect(line.length).toBeLessThanOrEqual(60)
    expect(plot[0]).toMatch(/^ \+0\.4000/)
    expect(plot.at(-1)).toMatch(/^ -0\.4000/)
    expect(plot.filter((line) => /^ +0\.0000 [┼┤]─+/.test(line))).toHaveLength(1)
    // The line falls: its first corner is in the first row, its last in the last.
    expect(plot[0]!.search(/[╮─]/)).toBeLessThan(plot.at(-1)!.search(/[╰─]/))
  })

  it('draws nothing where nothing changed, and one query as well as many', () => {
    expect(
      differencePlot(
        compareValues(
          'm',
          values(9, () => 0.5),
          values(9, () => 0.5),
        ),
      ),
    ).toMatch(/9 tied\n$/)
    expect(
      differencePlot(
        compareValues(
          'm',
          values(1, () => 0),
          values(1, () => 0.5),
        ),
      ),
    ).toContain('+0.5000')
    expect(
      differencePlot(
        compareValues(
          'm',
          values(2, () => 0),
          values(2, () => -1e-9),
        ),
      ),
    ).not.toContain('-0.0000')
  })
})
