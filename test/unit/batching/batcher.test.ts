import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { RankmillError } from '../../../shared/errors.js'
import { Batcher, type BatchObservation } from '../../../worker/batching/batcher.js'
import type { Batch, BatchOutput, InferenceEngine } from '../../../worker/inference/engine.js'
import type { EncodedPair } from '../../../worker/tokenize/pair-encoder.js'

/** An engine whose calls end when the test says so; a pair's logit is the sum of its ids. */
class ManualEngine implements InferenceEngine {
  readonly sessions = 1
  readonly slots: number
  readonly shape
  readonly calls: { batch: Batch; finish: () => void; fail: (error: Error) => void }[] = []
  constructor(batchPairs: number, batchTokens = 100_000, slots = 1) {
    this.slots = slots
    this.shape = { sessions: 1, threadsPerSession: 1, batchPairs, batchTokens }
  }
  run(batch: Batch): Promise<BatchOutput> {
    return new Promise((resolve, reject) => {
      this.calls.push({ batch, finish: () => resolve({ logits: sums(batch), inferenceMs: 1 }), fail: reject })
    })
  }
  busyRatio = () => 0
  close = async () => undefined
}

/** Finishes every call at once, unless one of its pairs holds the poison. */
class InstantEngine extends ManualEngine {
  constructor(
    batchPairs: number,
    batchTokens: number,
    slots: number,
    readonly poison = -1,
    readonly code: 'inference_failed' | 'out_of_memory' = 'inference_failed',
  ) {
    super(batchPairs, batchTokens, slots)
  }
  override async run(batch: Batch): Promise<BatchOutput> {
    await new Promise(setImmediate)
    if (batch.inputIds.includes(BigInt(this.poison))) throw new RankmillError(this.code, 'poison')
    return { logits: sums(batch), inferenceMs: 1 }
  }
}

function sums(batch: Batch): Float32Array {
  return Float32Array.from({ length: batch.size }, (_, row) => {
    const ids = batch.inputIds.subarray(row * batch.length, (row + 1) * batch.length)
    return Number(ids.reduce((a, b) => a + b, 0n))
  })
}

const pair = (length: number, id = 1): EncodedPair => ({
  ids: new Int32Array(length).fill(id),
  secondStart: 1,
  truncated: false,
})
setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void
const never = new AbortController().signal
const ordinary = { priority: 0, deadlineAt: null, signal: never }

function setUp(engine: InferenceEngine, clock = { now: 0 }, maxEntryAgeMs = 1000) {
  const seen: BatchObservation[] = []
  const batcher = new Batcher(engine, {
    padId: 0,
    withTypes: true,
    maxEntryAgeMs,
    now: () => clock.now,
    observe: (b) => seen.push(b),
  })
  return { batcher, seen }
}

const settled = () => new Promise(setImmediate)

describe('Batcher', () => {
  it('gives every pair its own score, whatever the mix of jobs and lengths', async () => {
    const jobs = fc.array(
      fc.array(fc.record({ length: fc.integer({ min: 2, max: 60 }), id: fc.integer({ min: 1, max: 999 }) }), {
        maxLength: 20,
      }),
      { maxLength: 10 },
    )
    await fc.assert(
      fc.asyncProperty(
        jobs,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 60, max: 400 }),
        async (jobs, batchPairs, batchTokens) => {
          const { batcher, seen } = setUp(new InstantEngine(batchPairs, batchTokens, 2))
          const results = await Promise.all(
            jobs.map((job) => batcher.score({ ...ordinary, pairs: job.map((p) => pair(p.length, p.id)) })),
          )
          expect(results.map(({ logits }) => [...logits])).toEqual(jobs.map((job) => job.map((p) => p.length * p.id)))
          for (const batch of seen) {
            expect(batch.pairs).toBeLessThanOrEqual(batchPairs)
            expect(batch.paddedTokens).toBeLessThanOrEqual(batchTokens)
          }
          expect(batcher.pairsWaiting).toBe(0)
        },
      ),
    )
  })

  it('shares batches between jobs', async () => {
    const engine = new ManualEngine(8)
    const { batcher } = setUp(engine)
    const first = batcher.score({ ...ordinary, pairs: [pair(5)] })
    const others = [1, 2, 3].map(() => batcher.score({ ...ordinary, pairs: [pair(5), pair(5)] }))
    engine.calls[0]!.finish()
    await first
    await settled()
    expect(engine.calls[1]!.batch.size).toBe(6)
    engine.calls[1]!.finish()
    await Promise.all(others)
  })

  it('pads little: neighbours in length go together', async () => {
    const { batcher, seen } = setUp(new InstantEngine(4, 100_000, 2))
    const lengths = Array.from({ length: 400 }, (_, i) => 20 + ((i * 7919) % 200))
    await batcher.score({ ...ordinary, pairs: lengths.map((n) => pair(n)) })
    const tokens = seen.reduce((sum, b) => sum + b.tokens, 0)
    const padded = seen.reduce((sum, b) => sum + b.paddedTokens, 0)
    expect(1 - tokens / padded).toBeLessThan(0.01)
  })

  it('counts what is read of a pair: a beginning that is kept is not', async () => {
    const prompts = Array.from({ length: 24 }, (_, i) => ({ ...pair(250 + 40 - (i % 2)), prefix: 250 }))
    const sizesWith = async (keptTokens?: number) => {
      const engine = Object.assign(new InstantEngine(100, 512, 1), keptTokens === undefined ? {} : { keptTokens })
      const { batcher, seen } = setUp(engine)
      await batcher.score({ ...ordinary, pairs: prompts })
      return seen.map(({ pairs, tokens }) => [pairs, Math.round(tokens / pairs)])
    }
    expect(await sizesWith(1000)).toEqual([
      [12, 40],
      [12, 39],
    ])
    // What is too long to be kept, or never is, is read with every pair.
    for (const kept of [249, 0, undefined]) expect(await sizesWith(kept)).toHaveLength(24)
  })

  it('serves a better priority first, then the earlier deadline, then the older', async () => {
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine)
    const order: string[] = []
    const add = (name: string, priority: number, deadlineAt: number | null) =>
      batcher.score({ pairs: [pair(3)], priority, deadlineAt, signal: never }).then(() => order.push(name))
    const all = [
      add('running', 0, null),
      add('low', 9, null),
      add('none', 0, null),
      add('later', 0, 900),
      add('sooner', 0, 500),
      add('last', 0, null),
    ]
    for (let i = 0; i < all.length; i++) {
      engine.calls[i]!.finish()
      await settled()
    }
    await Promise.all(all)
    expect(order).toEqual(['running', 'sooner', 'later', 'none', 'last', 'low'])
  })

  it('lets nobody starve: what is over the age limit gets every fourth batch', async () => {
    const clock = { now: 0 }
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine, clock, 1000)
    let lowDone = false
    const low = batcher.score({ pairs: [pair(3)], priority: 500, deadlineAt: null, signal: never })
    // The first call takes it at once, so put it behind one that runs.
    engine.calls[0]!.finish()
    await low
    const running = batcher.score({ ...ordinary, pairs: [pair(3)] })
    const starving = batcher.score({ pairs: [pair(3)], priority: 500, deadlineAt: null, signal: never }).then(() => {
      lowDone = true
    })
    clock.now = 2000
    const urgent = batcher.score({ ...ordinary, pairs: Array.from({ length: 20 }, () => pair(3)) })
    for (let i = 1; i <= 6; i++) {
      engine.calls[i]!.finish()
      await settled()
    }
    expect(lowDone).toBe(true)
    for (let i = 7; i < 23; i++) {
      engine.calls[i]!.finish()
      await settled()
    }
    await Promise.all([running, starving, urgent])
  })

  it('never scores what is past its deadline', async () => {
    const clock = { now: 0 }
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine, clock)
    const running = batcher.score({ ...ordinary, pairs: [pair(3)] })
    const late = batcher.score({ pairs: [pair(3)], priority: 0, deadlineAt: 10, signal: never })
    clock.now = 11
    engine.calls[0]!.finish()
    await running
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' })
    expect(engine.calls).toHaveLength(1)
  })

  it('ends whoever is past its deadline, though others go first, and lets nobody starve behind it', async () => {
    const clock = { now: 0 }
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine, clock, 1000)
    const running = batcher.score({ ...ordinary, pairs: [pair(3)] })
    const late = batcher.score({ pairs: [pair(3)], priority: 500, deadlineAt: 10, signal: never })
    const patient = batcher.score({ pairs: [pair(5)], priority: 500, deadlineAt: null, signal: never })
    clock.now = 2000
    const urgent = batcher.score({ ...ordinary, pairs: Array.from({ length: 8 }, () => pair(3)) })
    engine.calls[0]!.finish()
    await running
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' })
    const lengths: number[] = []
    for (let i = 1; i <= 9; i++) {
      lengths.push(engine.calls[i]!.batch.length)
      engine.calls[i]!.finish()
      await settled()
    }
    expect(lengths.indexOf(5)).toBeLessThan(4)
    await Promise.all([patient, urgent])
  })

  it('ends a halved batch of a request whose deadline passed, without another try', async () => {
    const clock = { now: 0 }
    const engine = new ManualEngine(4)
    const { batcher } = setUp(engine, clock)
    const late = batcher.score({ pairs: [pair(3), pair(3)], priority: 0, deadlineAt: 10, signal: never })
    clock.now = 11
    engine.calls[0]!.fail(new RankmillError('inference_failed', 'once'))
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' })
    expect(engine.calls).toHaveLength(1)
  })

  it('lets go of pairs when they are scored, though their priority never runs out of work', async () => {
    const { batcher } = setUp(new InstantEngine(8, 100_000, 2))
    const held: WeakRef<Int32Array>[] = []
    let open = 0
    const feed = async (rounds: number) => {
      for (let i = 0; i < rounds; i++) {
        const pairs = [pair(20 + (i % 30)), pair(10)]
        for (const { ids } of pairs) held.push(new WeakRef(ids))
        await batcher.score({ ...ordinary, pairs })
        open++
      }
    }
    const feeding = Promise.all(Array.from({ length: 8 }, () => feed(1000)))
    while (open < 4000) await settled()
    collectGarbage()
    await settled()
    collectGarbage()
    const alive = held.filter((ref) => ref.deref() !== undefined).length
    expect(batcher.pairsWaiting).toBeGreaterThan(0)
    expect(alive).toBeLessThan(held.length / 20)
    await feeding
  })

  it('drops the pairs of a cancelled job', async () => {
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine)
    const running = batcher.score({ ...ordinary, pairs: [pair(3)] })
    const controller = new AbortController()
    const cancelled = batcher.score({ ...ordinary, pairs: [pair(3), pair(3)], signal: controller.signal })
    const reason = new RankmillError('cancelled', 'no longer wanted')
    controller.abort(reason)
    await expect(cancelled).rejects.toBe(reason)
    engine.calls[0]!.finish()
    await running
    await settled()
    expect(engine.calls).toHaveLength(1)
  })

  it('finds the pair that makes a batch fail; only its job fails, with its index', async () => {
    const { batcher } = setUp(new InstantEngine(16, 100_000, 2, 666))
    const poisoned = batcher.score({ ...ordinary, pairs: [pair(4), pair(5), pair(6, 666), pair(7)] })
    const clean = [1, 2, 3].map(() => batcher.score({ ...ordinary, pairs: [pair(4), pair(5), pair(6), pair(7)] }))
    await expect(poisoned).rejects.toMatchObject({ code: 'inference_failed', details: { index: 2 } })
    for (const { logits } of await Promise.all(clean)) expect([...logits]).toEqual([4, 5, 6, 7])
  })

  it('takes a score that is no number for a failure of its pair', async () => {
    const engine = new ManualEngine(4)
    const { batcher } = setUp(engine)
    const scores = batcher.score({ ...ordinary, pairs: [pair(3), pair(4)] })
    engine.run = async (batch) => ({ logits: new Float32Array(batch.size).fill(Number.NaN), inferenceMs: 1 })
    engine.calls[0]!.fail(new RankmillError('inference_failed', 'once'))
    await expect(scores).rejects.toMatchObject({ code: 'inference_failed', message: expect.stringContaining('NaN') })
  })

  it('halves its budget for a while when memory runs out', async () => {
    const clock = { now: 0 }
    const engine = new ManualEngine(8)
    const { batcher } = setUp(engine, clock)
    const scores = batcher.score({ ...ordinary, pairs: Array.from({ length: 16 }, () => pair(3)) })
    const sizes: number[] = []
    for (let i = 0; i < 5; i++) {
      sizes.push(engine.calls[i]!.batch.size)
      if (i === 0) engine.calls[i]!.fail(new RankmillError('out_of_memory', 'no memory'))
      else engine.calls[i]!.finish()
      await settled()
    }
    expect(sizes).toEqual([8, 4, 4, 4, 4])
    expect([...(await scores).logits]).toEqual(new Array(16).fill(3))
    clock.now = 60_001
    const later = batcher.score({ ...ordinary, pairs: Array.from({ length: 8 }, () => pair(3)) })
    expect(engine.calls[5]!.batch.size).toBe(8)
    engine.calls[5]!.finish()
    await later
  })

  it('gives back what waits when it closes', async () => {
    const engine = new ManualEngine(1)
    const { batcher } = setUp(engine)
    const running = batcher.score({ ...ordinary, pairs: [pair(3)] })
    const waiting = batcher.score({ ...ordinary, pairs: [pair(3)] })
    batcher.close()
    await expect(waiting).rejects.toMatchObject({ code: 'closed' })
    engine.calls[0]!.finish()
    await running
    await expect(batcher.score({ ...ordinary, pairs: [pair(3)] })).rejects.toMatchObject({ code: 'closed' })
  })
})
