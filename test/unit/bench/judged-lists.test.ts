/** nDCG@10 of a peer's scores, which come for all lists one after the other. */
import { expect, test } from 'vitest'
import { firstScores, listsOf, meanNdcg } from '../../../bench/peers/judged-lists.js'

const document = (id: string, score: number) => ({ id, text: `text of ${id}`, score })
const collection = {
  name: 'two queries',
  queries: [
    { query: 'a', documents: [document('x', 3), document('y', 2)], grades: new Map([['y', 1]]) },
    { query: 'b', documents: [document('p', 9), document('q', 8), document('r', 7)], grades: new Map([['p', 2]]) },
  ],
}

test('lists have the candidates in the first stage’s order', () => {
  expect(listsOf(collection)[0]).toEqual({ query: 'a', documents: ['text of x', 'text of y'] })
  expect(firstScores(collection)).toEqual([3, 2, 9, 8, 7])
})

test('each list is ordered by its own scores; equal ones stay as they were', () => {
  expect(meanNdcg(collection, [0, 1, 2, 1, 0])).toBe(1)
  expect(meanNdcg(collection, [0, 0, 0, 0, 0])).toBeCloseTo((1 / Math.log2(3) + 1) / 2, 10)
  expect(meanNdcg(collection, firstScores(collection))).toBeCloseTo((1 / Math.log2(3) + 1) / 2, 10)
})
