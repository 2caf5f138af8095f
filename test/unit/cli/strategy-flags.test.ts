import { describe, expect, it } from 'vitest'
import { strategyOf } from '../../../cli/strategy-flags.js'

describe('flags of a fusion', () => {
  const filters = { prefilterModel: 'first-stage+filter', prefilterBy: 'score' }

  it.each([
    [{ fuse: 'rrf' }, 'rrf'],
    [{ fuse: '0.7' }, { weight: 0.7 }],
    [{ fuse: 'score:0.7' }, { weight: 0.7, by: 'score' }],
    [
      { fuse: 'score:0.7', fuseOf: 'first-stage' },
      { weight: 0.7, by: 'score', of: 'first-stage' },
    ],
    [
      { fuse: 'rrf', fuseOf: 'filter' },
      { weight: 0.5, of: 'filter' },
    ],
    [
      { fuse: 'learned', fuseOf: 'filter' },
      { weight: 'learned', of: 'filter' },
    ],
  ])('%j are %j', (flags, fuse) => {
    expect(strategyOf({ ...filters, ...flags })).toEqual({
      prefilter: { keep: undefined, model: 'first-stage+filter', by: 'score' },
      fuse,
    })
  })

  it('say how, not only with what', () => {
    expect(() => strategyOf({ ...filters, fuseOf: 'filter' })).toThrow(/--fuse-of: .*needs --fuse/)
  })
})
