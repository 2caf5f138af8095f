import { expect, it } from 'vitest'
import { assembleBatch } from '../../../worker/batching/batch-assembly.js'
import { ScoringGroup } from '../../../worker/batching/scoring-group.js'

const group = new ScoringGroup(
  [
    { ids: Int32Array.of(101, 7, 102, 8, 102), secondStart: 3, truncated: false },
    { ids: Int32Array.of(101, 7, 102), secondStart: 3, truncated: false },
  ],
  0,
  null,
  0,
)
const entries = [...group.entries].sort((a, b) => a.index - b.index)

it('pads on the right, with mask 0 and type 0', () => {
  const batch = assembleBatch(entries, 1, true)
  expect([batch.size, batch.length]).toEqual([2, 5])
  expect([...batch.inputIds].map(Number)).toEqual([101, 7, 102, 8, 102, 101, 7, 102, 1, 1])
  expect([...batch.attentionMask].map(Number)).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0, 0])
  expect([...(batch.tokenTypeIds ?? [])].map(Number)).toEqual([0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
})

it('leaves token types out for models without them', () => {
  expect(assembleBatch(entries, 0, false).tokenTypeIds).toBeNull()
})
