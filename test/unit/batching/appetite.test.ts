import { describe, expect, it } from 'vitest'
import { Appetite } from '../../../worker/batching/appetite.js'

const ROUND = 32

/** Jobs of one size, ended one after the other with all slots in use; returns what the appetite comes to. */
function settle(pairsOfAJob: number, most = 32): number {
  const appetite = new Appetite(most)
  for (let i = 0; i < 200; i++) {
    const held = appetite.jobs
    appetite.ended(held, { pairsWaiting: (held - 1) * pairsOfAJob, roundPairs: ROUND })
  }
  return appetite.jobs
}

describe('Appetite', () => {
  it('grows until two to four batches are ready beyond what runs, and stays there', () => {
    for (const pairs of [5, 10, 20, 40]) {
      const ready = (settle(pairs) - 1) * pairs
      expect(ready).toBeGreaterThanOrEqual(4 * ROUND)
      expect(ready).toBeLessThan(6 * ROUND)
    }
  })

  it('holds two large jobs, never fewer', () => {
    expect(settle(256)).toBe(2)
    expect(settle(100_000)).toBe(2)
  })

  it('grows no further than it may', () => {
    expect(settle(1)).toBe(32)
    expect(settle(1, 7)).toBe(7)
    expect(settle(1, 1)).toBe(1)
    expect(settle(1000, 1)).toBe(1)
  })

  it('does not grow while its slots are not all in use: there is no more work', () => {
    const appetite = new Appetite(32)
    for (let i = 0; i < 50; i++) appetite.ended(1, { pairsWaiting: 0, roundPairs: ROUND })
    expect(appetite.jobs).toBe(2)
  })

  it('shrinks when jobs become larger', () => {
    const appetite = new Appetite(32)
    for (let i = 0; i < 50; i++) appetite.ended(appetite.jobs, { pairsWaiting: 0, roundPairs: ROUND })
    expect(appetite.jobs).toBe(32)
    for (let i = 0; i < 50; i++) appetite.ended(appetite.jobs, { pairsWaiting: appetite.jobs * 256, roundPairs: ROUND })
    expect(appetite.jobs).toBe(2)
  })
})
