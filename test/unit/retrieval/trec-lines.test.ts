/** Run files that are written can be read back, in the same order, by trec_eval's rules. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  formatTrecLines,
  type RankedScore,
  rankingOf,
  readTrecRun,
  withRest,
} from '../../../producer/retrieval/trec-run.js'
import { sourceOf } from './source.js'

const read = async (lines: string) => readTrecRun(sourceOf(lines, 1000))

describe('formatTrecLines', () => {
  it('writes ranks from 1 and the tag', () => {
    const ranked = [
      { docId: 'a', score: 0.75 },
      { docId: 'b', score: 1e-9 },
      { docId: 'c', score: -2 },
    ]
    expect(formatTrecLines('q', ranked, 'mine')).toBe('q Q0 a 1 0.75 mine\nq Q0 b 2 1e-9 mine\nq Q0 c 3 -2 mine\n')
    expect(formatTrecLines('q', [])).toBe('')
  })

  it('keeps the order of scores that differ, in single precision too', async () => {
    // Sigmoids of large logits, and numbers of any size; ids ascending, against trec_eval's order of ties.
    const score = fc.oneof(
      fc.double({ min: 1 - 1e-6, max: 1, noNaN: true }),
      fc.double({ min: -1e-44, max: 1e-44, noNaN: true }),
      fc.double({ min: -1e30, max: 1e30, noNaN: true }),
    )
    const check = async (scores: number[]) => {
      const ranked = scores
        .sort((a, b) => b - a)
        .map((value, i) => ({ docId: `d${String(i).padStart(3, '0')}`, score: value }))
      const run = await read(formatTrecLines('q', ranked))
      expect(run.get('q')?.docIds).toEqual(ranked.map(({ docId }) => docId))
      run.get('q')?.scores.forEach((value, i) => {
        expect(Math.abs(value - ranked[i]!.score)).toBeLessThanOrEqual(
          1e-5 * Math.max(1e-30, Math.abs(ranked[i]!.score)),
        )
      })
    }
    const distinct = fc.uniqueArray(score, { minLength: 1, maxLength: 40, comparator: (a, b) => a === b })
    await fc.assert(fc.asyncProperty(distinct, check))
  })

  it('keeps the order of equal scores: sigmoids of large logits, passages that are the same', async () => {
    const check = async (places: string[], score: number) => {
      const ranked = places.map((docId) => ({ docId, score }))
      const run = await read(formatTrecLines('q', ranked))
      expect(run.get('q')?.docIds).toEqual(places)
      const written = formatTrecLines('q', ranked).split('\n').slice(0, -1)
      const scores = written.map((line) => Math.fround(Number(line.split(' ')[4])))
      for (const [i, value] of scores.slice(1).entries()) expect(value).toBeLessThan(scores[i]!)
    }
    const places = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,3}$/), { minLength: 2, maxLength: 100 })
    await fc.assert(fc.asyncProperty(places, fc.constantFrom(1, 0.1, 0, -3e-45, -7), check))
  })

  const ranked = (...pairs: [string, number][]): RankedScore[] => pairs.map(([docId, score]) => ({ docId, score }))
  it.each<[string, RankedScore[], string, RegExp]>([
    ['q', ranked(['a b', 1]), 't', /^document id: "a b" holds white space/],
    ['q', ranked(['a\tb', 1]), 't', /^document id: "a\\tb" holds white space/],
    ['q', ranked(['', 1]), 't', /^document id: "" is empty/],
    ['', ranked(['a', 1]), 't', /^query id: "" is empty/],
    ['q\n', ranked(['a', 1]), 't', /^query id: "q\\n" holds white space/],
    ['q', ranked(['a', 1]), 'my tag', /^tag: "my tag" holds white space/],
    ['q', ranked(['a', 1], ['a', 0]), 't', /^document id: query q has "a" twice$/],
    ['q', ranked(['a', 1], ['b', 2]), 't', /^score: query q, document "b": must not be over the one before, 1, got 2$/],
    ['q', ranked(['a', Number.NaN]), 't', /^score: query q, document "a": must be a finite single, got NaN$/],
  ])('refuses what the format cannot express: %j %j %j', (query, list, tag, message) => {
    expect(() => formatTrecLines(query, list, tag)).toThrow(message)
  })
})

describe('withRest', () => {
  it('puts candidates after the depth below those that were reranked, each once', async () => {
    const firstStage = rankingOf(['a', 'b', 'c', 'd'], [9, 8, 7, 6])
    const reranked = [
      { docId: 'b', score: 0.5 },
      { docId: 'a', score: -3 },
    ]
    const run = await read(formatTrecLines('q', withRest(reranked, firstStage, 2)))
    expect(run.get('q')).toEqual({ docIds: ['b', 'a', 'c', 'd'], scores: [0.5, -3, -4, -5] })
    expect(withRest([{ docId: 'c', score: 1 }], firstStage, 2).map(({ docId }) => docId)).toEqual(['c', 'd'])
    expect(withRest([], firstStage, 3)).toEqual([{ docId: 'd', score: -1 }])
  })
})
