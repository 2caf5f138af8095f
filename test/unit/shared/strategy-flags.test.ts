import { expect, it } from 'vitest'
import { strategyOf } from '../../../cli/strategy-flags.js'

it.each([
  ['0.3', { weight: 0.3 }],
  ['score:0.3', { weight: 0.3, by: 'score' }],
  ['learned', 'learned'],
  ['rrf', 'rrf'],
])('--fuse %s', (fuse, expected) => expect(strategyOf({ fuse })).toEqual({ fuse: expected }))

it('--cascade names models, each with what goes on', () => {
  expect(strategyOf({ cascade: 'nano:30,org/name@v1:0.5,c:/models/a:auto' })).toEqual({
    cascade: [
      { model: 'nano', keep: 30 },
      { model: 'org/name@v1', keep: 0.5 },
      { model: 'c:/models/a', keep: 'auto' },
    ],
  })
  expect(strategyOf({ cascade: 'nano' })).toEqual({ cascade: [{ model: 'nano' }] })
})
