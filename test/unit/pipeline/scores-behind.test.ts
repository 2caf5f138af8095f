import fc from 'fast-check'
import { expect, it } from 'vitest'
import { scoresBehind } from '../../../worker/pipeline/scores-behind.js'

it('keeps estimates, as far as the order lets them', () => {
  expect(scoresBehind([0.4, 0.3, 0.1], 0.5)).toEqual([0.4, 0.3, 0.1])
  const [first, second, third] = scoresBehind([0.7, 0.6, 0.2], 0.5)
  expect(first).toBeCloseTo(0.5, 8)
  expect(second).toBeCloseTo(0.5, 8)
  expect(third).toBe(0.2)
})

it('spreads rows of which nothing is known below the one before', () => {
  expect(scoresBehind([undefined, undefined, undefined], 0.8)).toEqual([
    expect.closeTo(0.6),
    expect.closeTo(0.4),
    expect.closeTo(0.2),
  ])
  expect(scoresBehind([undefined, 0.9], -1)).toEqual([-1.5, expect.closeTo(-1.5, 8)])
})

it('always descends, and stays above 0 behind a positive score', () => {
  const estimate = fc.option(fc.double({ min: 1e-6, max: 1, noNaN: true }), { nil: undefined })
  const lowest = fc.oneof(fc.double({ min: 1e-6, max: 3, noNaN: true }), fc.double({ min: -3, max: 0, noNaN: true }))
  fc.assert(
    fc.property(fc.array(estimate, { maxLength: 50 }), lowest, (estimates, lowest) => {
      const scores = scoresBehind(estimates, lowest)
      expect(scores).toHaveLength(estimates.length)
      for (const [i, score] of scores.entries()) expect(score).toBeLessThan(scores[i - 1] ?? lowest)
      if (lowest > 0) expect(scores.every((score) => score > 0)).toBe(true)
    }),
  )
})
