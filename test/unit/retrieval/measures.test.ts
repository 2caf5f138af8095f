/** Measures equal those of pytrec_eval and ir_measures, on made-up runs and on collections. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import { mean } from 'simple-statistics'
import { describe, expect, it } from 'vitest'
import { type Qrels, readQrels } from '../../../producer/retrieval/beir.js'
import {
  AVERAGE_PRECISION,
  evaluateRun,
  type Measure,
  mrr,
  ndcg,
  recall,
} from '../../../producer/retrieval/measures.js'
import { compareBytes, rankingOf, readTrecRun } from '../../../producer/retrieval/trec-run.js'
import { sourceOf } from './source.js'

interface GoldenCase {
  readonly name: string
  readonly qrels: Record<string, Record<string, number>>
  readonly run: string[]
  /** By query, then measure. */
  readonly values: Record<string, Record<string, number>>
  readonly means: Record<string, number>
}

const golden = JSON.parse(
  gunzipSync(readFileSync('test/golden/retrieval/measures.json.gz')).toString(),
) as readonly GoldenCase[]

/** `nDCG@10` as in the golden values. */
function measureOf(name: string): Measure {
  const [kind, cutoff] = name.split('@')
  const make = { nDCG: ndcg, MRR: mrr, R: recall }[kind ?? '']
  return make ? make(Number(cutoff)) : AVERAGE_PRECISION
}

describe.each(golden)('with $name', ({ qrels: judged, run: lines, values, means }) => {
  const qrels: Qrels = new Map(
    Object.entries(judged).map(([query, grades]) => [query, new Map(Object.entries(grades))]),
  )
  const names = Object.keys(Object.values(values)[0]!)

  it('gives the values of pytrec_eval for each query', async () => {
    const run = await readTrecRun(sourceOf(lines.join('\n')))
    expect(names).toHaveLength(16)
    for (const name of names) {
      const measure = measureOf(name)
      expect(measure.name).toBe(name)
      const mine = evaluateRun(run, qrels, measure)
      expect([...mine.keys()]).toEqual(Object.keys(judged))
      for (const [query, value] of mine) expect(value, `${name} of ${query}`).toBeCloseTo(values[query]?.[name] ?? 0, 9)
    }
  })

  it('gives the means of ir_measures: queries without results count as 0, those without judgements do not', async () => {
    const run = await readTrecRun(sourceOf(lines.join('\n')))
    for (const [name, value] of Object.entries(means)) {
      expect(mean([...evaluateRun(run, qrels, measureOf(name)).values()]), name).toBeCloseTo(value, 9)
    }
  })
})

/** Means by `generate.py FOLDER`; nDCG@10, MAP and R@100 by ir_measures, MRR@10 by pytrec_eval. */
const collections = [
  {
    name: 'cranfield',
    'nDCG@10': 0.3433215413902016,
    'MRR@10': 0.5063633156966489,
    MAP: 0.27284532911789694,
    'R@100': 0.7221023450520354,
  },
  {
    name: 'cacm',
    'nDCG@10': 0.4873885578386557,
    'MRR@10': 0.6968482905982903,
    MAP: 0.32960720760092743,
    'R@100': 0.645643677642795,
  },
]
const folderOf = (name: string) =>
  ['../shared/eval', '../../shared/eval'].map((folder) => join(folder, name)).find((folder) => existsSync(folder))

describe.each(collections)('BM25 on $name', ({ name, ...expected }) => {
  it('has the measures that pytrec_eval gives', async ({ skip }) => {
    const folder = folderOf(name)
    if (!folder) return skip(`no collection ${name} in ../shared/eval`)
    const [qrels, run] = await Promise.all([
      readQrels(join(folder, 'qrels.tsv')),
      readTrecRun(join(folder, 'bm25.trec')),
    ])
    for (const [measure, value] of Object.entries(expected)) {
      expect(mean([...evaluateRun(run, qrels, measureOf(measure)).values()]), measure).toBeCloseTo(value, 9)
    }
  })
})

describe('order of ties', () => {
  it('is that of the bytes of ids, descending', () => {
    const id = fc.string({ unit: 'binary', maxLength: 4 })
    fc.assert(
      fc.property(id, id, (a, b) => {
        expect(Math.sign(compareBytes(a, b))).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)))
      }),
    )
    expect(rankingOf(['b', 'a', '\u{1f600}', '\uff5e'], [1, 1, 1, 1]).docIds).toEqual(['\u{1f600}', '\uff5e', 'b', 'a'])
  })
})

describe('a cutoff', () => {
  it.each([0, -1, 1.5, Number.NaN])('of %s is refused', (k) => {
    for (const make of [ndcg, mrr, recall]) expect(() => make(k)).toThrow(`at least 1, got ${k}`)
  })
})
