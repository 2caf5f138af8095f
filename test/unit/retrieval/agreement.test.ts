import { expect, test } from 'vitest'
import { agreementOf, type TwiceScored } from '../../../producer/retrieval/agreement.js'

const ids = (count: number) => Array.from({ length: count }, (_, i) => `d${i}`)
const list = (full: number[], other: number[], grades?: Record<string, number>): TwiceScored => ({
  ids: ids(full.length),
  full,
  other,
  grades: grades && new Map(Object.entries(grades)),
})

test('the same scores agree in everything', () => {
  const agreement = agreementOf([list([3, 1, 2], [3, 1, 2])])
  expect(agreement).toEqual({
    rankCorrelation: { mean: expect.closeTo(1), lowest: expect.closeTo(1) },
    overlapAt10: 1,
    greatestDifference: 0,
    ndcgAt10: null,
  })
})

test('mean and lowest rank correlation, and the greatest difference, are over all lists', () => {
  const { rankCorrelation, greatestDifference } = agreementOf([
    list([1, 2, 3], [1, 2, 3.5]),
    list([1, 2, 3], [3, 2, 1]),
  ])
  expect(rankCorrelation.mean).toBeCloseTo(0)
  expect(rankCorrelation.lowest).toBeCloseTo(-1)
  expect(greatestDifference).toBe(2)
})

test('overlap counts the first ten alone', () => {
  const full = ids(20).map((_, i) => -i)
  const other = full.map((score, i) => (i === 9 ? -15.5 : score))
  expect(agreementOf([list(full, other)]).overlapAt10).toBeCloseTo(0.9)
})

test('nDCG@10 is of the judged lists, in the order of each side', () => {
  const judged = list([2, 1], [1, 2], { d0: 1 })
  expect(agreementOf([judged, list([1, 2], [1, 2])]).ndcgAt10).toEqual({
    full: 1,
    other: expect.closeTo(1 / Math.log2(3)),
  })
})

test('a side without any order has no correlation', () => {
  expect(agreementOf([list([1, 2], [1, 1])]).rankCorrelation.mean).toBe(0)
  expect(agreementOf([list([1, 1], [2, 2])]).rankCorrelation.mean).toBe(1)
})
