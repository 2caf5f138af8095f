import { describe, expect, it } from 'vitest'
import { shardOf, shardPrefixes, slotOf } from '../../../shared/protocol/shards.js'

const tagOf = (prefix: string) => /\{(.+)\}/.exec(prefix)?.[1] ?? ''

describe('the prefixes of shards', () => {
  it('are the prefix itself, and others in slots of their own', () => {
    expect(shardPrefixes('{rankmill}', 1)).toEqual(['{rankmill}'])
    expect(shardPrefixes('plain', 3)[0]).toBe('plain')
    expect(shardPrefixes('a{b}c', 2)[1]).toMatch(/^a\{b:1(\.\d+)?\}c$/)
  })

  it.each([2, 3, 4, 6, 16, 64])('of %d lie one in each of as many stretches of the slots', (shards) => {
    for (const prefix of ['{rankmill}', '{a}', '{test-0123}']) {
      const stretches = shardPrefixes(prefix, shards).map((one) => Math.floor((slotOf(tagOf(one)) * shards) / 16_384))
      expect(new Set(stretches).size).toBe(shards)
    }
  })

  it('are in the slots that Redis says (CLUSTER KEYSLOT)', () => {
    expect([slotOf('rankmill'), slotOf('123456789'), slotOf('é')]).toEqual([6282, 12_739, 10_180])
  })
})

describe('the shard of an id', () => {
  it('is always the same, so that every release and process finds it', () => {
    expect(['a', 'b', 'request-1', 'é', ''].map((id) => shardOf(id, 3))).toEqual([2, 0, 2, 0, 2])
    expect(shardOf('anything', 1)).toBe(0)
  })

  it('is each about as often', () => {
    const counts = [0, 0, 0]
    for (let i = 0; i < 3000; i++) counts[shardOf(`request-${i}`, 3)]!++
    for (const count of counts) expect(count).toBeGreaterThan(900)
  })
})
