import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Batcher } from '../../../worker/batching/batcher.js'
import { putStates, type StateShapes, takeStates } from '../../../worker/batching/carried-states.js'
import type { Batch, BatchOutput, InferenceEngine } from '../../../worker/inference/engine.js'

const SHAPES: StateShapes = { hidden: [null, 3], mask: [2, null], whole: [2, 2] }

describe('states between two stages', () => {
  it('are those of each pair, whatever pairs they travelled with, and zero where there is padding', () => {
    const tokens = fc.integer({ min: 1, max: 6 })
    fc.assert(
      fc.property(fc.array(tokens, { minLength: 1, maxLength: 5 }), fc.nat(3), (lengths, more) => {
        const length = Math.max(...lengths) + more
        const pairs = lengths.map((count, row) => {
          const numbers = (size: number) => Float32Array.from({ length: size }, (_, i) => 1 + row * 100 + i)
          return { hidden: numbers(count * 3), mask: numbers(2 * count), whole: numbers(4) }
        })
        const batch = putStates(pairs, SHAPES, length)
        expect(Object.values(batch).map((values) => values.length / lengths.length)).toEqual([
          3 * length,
          2 * length,
          4,
        ])
        lengths.forEach((count, row) => {
          expect(takeStates(batch, SHAPES, row, length, count)).toEqual(pairs[row])
          const padded = takeStates(batch, SHAPES, row, length, length)
          expect([...padded['hidden']!.subarray(3 * count)].every((value) => value === 0)).toBe(true)
          expect([...padded['mask']!.subarray(count, length)].every((value) => value === 0)).toBe(true)
        })
      }),
    )
  })
})

/** One call at a time, ended by the test; the state of a token is its id, ten times as large after each stage. */
class StagedEngine implements InferenceEngine {
  readonly sessions = 1
  readonly slots = 1
  readonly shape = { sessions: 1, threadsPerSession: 1, batchPairs: 8, batchTokens: 1000 }
  readonly calls: { batch: Batch; finish: () => void }[] = []
  run(batch: Batch): Promise<BatchOutput> {
    const ids = Float32Array.from(batch.inputIds, Number)
    const grown = batch.stage === 0 ? ids : batch.states?.['hidden']
    const states = { hidden: (grown ?? ids).map((value) => 10 * value) }
    const logits = Float32Array.from({ length: batch.size }, (_, row) => states.hidden[row * batch.length] ?? 0)
    return new Promise((resolve) => {
      this.calls.push({ batch, finish: () => resolve({ logits, states, inferenceMs: 1 }) })
    })
  }
  busyRatio = () => 0
  close = async () => undefined
}

it('packs survivors of different jobs into one call, and never pairs of different stages', async () => {
  const engine = new StagedEngine()
  const carries = [{ hidden: [null] }, {}]
  const batcher = new Batcher(engine, {
    padId: 0,
    withTypes: false,
    carries,
    maxEntryAgeMs: 1000,
    now: () => 0,
    observe: () => undefined,
  })
  const pair = (...ids: number[]) => ({ ids: Int32Array.from(ids), secondStart: 1, truncated: false })
  const request = { priority: 0, deadlineAt: null, signal: new AbortController().signal }
  const settle = () => new Promise(setImmediate)
  const first = batcher.score({ ...request, stage: 0, pairs: [pair(1, 2), pair(3, 8)] })
  engine.calls[0]!.finish()
  const second = batcher.score({ ...request, stage: 0, pairs: [pair(4, 5)] })
  const { states: ofFirst } = await first
  await settle()
  engine.calls[1]!.finish()
  const { states: ofSecond } = await second
  // While a call of the whole model runs, one of a stage-0 job and survivors of both jobs gather.
  const whole = batcher.score({ ...request, pairs: [pair(9)] })
  const fresh = batcher.score({ ...request, stage: 0, pairs: [pair(7)] })
  const on = [
    batcher.score({ ...request, stage: 1, pairs: [pair(3, 8)], states: [ofFirst[1]] }),
    batcher.score({ ...request, stage: 1, pairs: [pair(4, 5)], states: ofSecond }),
  ]
  for (let call = 2; call < 5; call++) {
    await settle()
    engine.calls[call]!.finish()
  }
  const [three, four] = await Promise.all(on)
  expect([three!.logits[0], four!.logits[0]]).toEqual([300, 400])
  await Promise.all([whole, fresh])
  expect(engine.calls.map(({ batch }) => [batch.stage, batch.size])).toEqual([
    [0, 2],
    [0, 1],
    [undefined, 1],
    [1, 2],
    [0, 1],
  ])
})
