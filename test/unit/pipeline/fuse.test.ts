/** Fusion, against its formulas as they are written. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fuse, modelShare } from '../../../worker/pipeline/fuse.js'

// The last two are the same number behind a sigmoid.
const few = fc.constantFrom(-3, -0.5, 0, 0.1, 0.5, 2, 7, 40, 50)
const lists = fc.array(fc.tuple(few, few), { minLength: 1, maxLength: 30 })
const share = fc.constantFrom(0, 0.2, 0.5, 0.9, 1)
const activate = (logit: number) => 1 / (1 + Math.exp(-logit))

const opinionsOf = (scores: readonly (readonly [number, number])[]) =>
  scores.map(([logit, filterScore], i) => ({
    candidate: { index: 3 * i, score: activate(logit), document: { text: `d${i}` } },
    logit,
    filterScore,
  }))

function slowRank(all: readonly number[], at: number): number {
  return 1 + all.filter((score, i) => score > all[at]! || (score === all[at] && i < at)).length
}

function slowZ(all: readonly number[], at: number): number {
  const mean = all.reduce((a, b) => a + b) / all.length
  const variance = all.map((score) => (score - mean) ** 2).reduce((a, b) => a + b) / all.length
  return variance < 1e-12 ? 0 : (all[at]! - mean) / Math.sqrt(variance)
}

describe('fuse', () => {
  it('mixes ranks, or z-scores of the logits and of the filter’s scores', () => {
    fc.assert(
      fc.property(lists, share, (scores, weight) => {
        const [model, filter] = [scores.map(([logit]) => logit), scores.map(([, score]) => score)]
        const byRank = fuse(opinionsOf(scores), 'rank', weight)
        const byScore = fuse(opinionsOf(scores), 'score', weight)
        for (const at of scores.keys()) {
          const ranks = weight / (60 + slowRank(model, at)) + (1 - weight) / (60 + slowRank(filter, at))
          expect(byRank[at]!.score).toBeCloseTo(61 * ranks, 10)
          expect(byScore[at]!.score).toBeCloseTo(weight * slowZ(model, at) + (1 - weight) * slowZ(filter, at), 6)
          expect(byScore[at]).toMatchObject({ index: 3 * at, document: { text: `d${at}` } })
        }
      }),
    )
  })

  it('does not depend on the scale of either', () => {
    fc.assert(
      fc.property(lists, share, (scores, weight) => {
        const scaled = scores.map(([logit, score]) => [4 * logit - 1, 100 * score + 7] as const)
        const fused = fuse(opinionsOf(scaled), 'score', weight)
        for (const [at, { score }] of fuse(opinionsOf(scores), 'score', weight).entries())
          expect(fused[at]!.score).toBeCloseTo(score, 6)
      }),
    )
  })
})

describe('the model’s share', () => {
  const model = { name: 'm', fusion: { bm25: 0.25, 'rankmill-filter': 0 } }

  it('is what was asked for, or comes from the weight that the model brings', () => {
    expect(modelShare({ weight: 0.3 }, model, 'other')).toBe(0.3)
    // z(model) + 0.25 z(filter), in shares of 1.
    expect(modelShare({ weight: 'learned' }, model, 'bm25')).toBe(0.8)
    expect(modelShare({ weight: 'learned' }, model, 'rankmill-filter')).toBe(1)
  })

  it('is refused where the model has none for the filter', () => {
    const refused = () => modelShare({ weight: 'learned' }, model, 'other')
    expect(refused).toThrow(
      /m has no learned weight for the filter "other" \(it has weights for bm25, rankmill-filter\)/,
    )
  })
})
