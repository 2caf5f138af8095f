/** Fairness: who waits for an answer does not wait for bulk work, bulk work goes on, and runs share the workers evenly. */
import { once } from 'node:events'
import { describe, expect, it, vi } from 'vitest'
import type { OptionsInput } from '../../shared/options.js'
import { LANES, type Lane } from '../../shared/protocol/lanes.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { RerankWorker } from '../../worker/worker.js'
import { Pace, pacedSource } from './paced-source.js'
import { type Stage, until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const BATCH = 8
const BULK: { readonly priority?: number } = { priority: 500 }

const request = (id: string, count: number, more: { readonly priority?: number } = {}): RerankInput => ({
  id,
  query: id,
  documents: Array.from({ length: count }, (_, i) => `passage ${i} of ${id}`),
  ...more,
})

/** A worker with one session whose batches run when the test says so. */
async function pacedWorker(s: Stage, input: OptionsInput = {}, now: () => number = Date.now) {
  const pace = new Pace()
  const options = s.options({ batchPairs: BATCH, scoreCacheTtlMs: 0, ...input })
  const worker = await RerankWorker.start(options, pacedSource(options, pace), { now })
  s.onEnd(() => worker.close(true))
  s.onEnd(() => pace.release())
  const [scorer] = worker.scorers.loaded
  return { pace, batcher: scorer!.batcher }
}

/** Lets a number of batches run, one after the other. */
async function runBatches(pace: Pace, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const { run } = pace
    pace.step()
    await until('a batch has run', () => pace.run > run)
  }
}

function active(s: Stage, lane: Lane): Promise<number> {
  return s.redis.llen(s.queueKey(lane, 'active'))
}

describe('an interactive request', () => {
  it.each([1, 5, 100])('is answered within a few batches while thousands of %i pairs wait', async (pairs) => {
    const client = stage().client()
    const bulk = Array.from({ length: 2000 }, (_, i) => request(`bulk${i}`, pairs, BULK))
    for (let i = 0; i < bulk.length; i += 500) await Promise.all(bulk.slice(i, i + 500).map((r) => client.submit(r)))
    const { pace, batcher } = await pacedWorker(stage())
    pace.release()
    await until('bulk work is in full swing', () => pace.run > 100)
    pace.hold()
    // Ten looks in a row that find the same: every slot that bulk work may have is taken.
    let [held, looks] = [-1, 0]
    await until('the worker takes no more bulk work', async () => {
      const now = (await active(stage(), 'interactive')) + (await active(stage(), 'bulk'))
      looks = now === held ? looks + 1 : 0
      held = now
      return looks >= 10 && pace.handed - pace.run === 2
    })
    const handedIn = vi.spyOn(batcher, 'score')
    const answer = client.rerank(request('asked', 2 * BATCH))
    // No batch runs: it finds a slot and room although bulk work has taken all it may.
    await until('its pairs are with the batcher', () => handedIn.mock.calls.some(([{ priority }]) => priority === 0))
    expect(await stage().queued('bulk')).toBeGreaterThan(500)
    // Two that the session had already, its own two, and one that may go to pairs over age.
    await runBatches(pace, 5)
    expect((await answer).results).toHaveLength(2 * BATCH)
  })

  it('finds room while bulk work waits for memory', async () => {
    const options = { maxInflightPairs: 4 * BATCH, batchPairs: BATCH, scoreCacheTtlMs: 0 }
    const { pace, batcher } = await pacedWorker(stage(), options)
    const client = stage().client()
    for (let i = 0; i < 10; i++) await client.submit(request(`bulk${i}`, 2 * BATCH, BULK))
    await until('bulk work has its share', () => batcher.pairsWaiting === 2 * BATCH)
    const answer = client.rerank(request('asked', BATCH))
    await until('its pairs are with the batcher', () => batcher.pairsWaiting === 3 * BATCH)
    await runBatches(pace, 3)
    await answer
  })
})

describe('bulk work', () => {
  it('gets every fourth batch once it is over age, while interactive requests never run out', async () => {
    const clock = { now: Date.now() }
    const { pace, batcher } = await pacedWorker(stage(), {}, () => clock.now)
    const client = stage().client()
    await client.submit(request('first', 2 * BATCH))
    await until('the session has its fill', () => pace.handed === 2)
    const bulk = client.rerank(request('bulk', 2 * BATCH, BULK))
    await until('bulk work is with the batcher', () => batcher.pairsWaiting === 4 * BATCH)
    clock.now++
    for (let i = 0; i < 20; i++) await client.submit(request(`more${i}`, BATCH))
    await until('so are 20 batches of interactive work', () => batcher.pairsWaiting === 24 * BATCH)
    clock.now += 60_000
    // Two that were handed over, and two turns of every fourth batch.
    await runBatches(pace, 2 + 8)
    expect((await bulk).results).toHaveLength(2 * BATCH)
    expect(batcher.pairsWaiting).toBeGreaterThan(10 * BATCH)
  })

  it('of two runs with equal windows is done in equal parts', async () => {
    const WINDOW = 6
    const COUNT = 60
    const done = { a: 0, b: 0 }
    let halfway: { a: number; b: number } | undefined
    const run = async (name: 'a' | 'b') => {
      const requests = Array.from({ length: COUNT }, (_, i) => request(`${name}${i}`, BATCH, BULK))
      for await (const { error } of stage().client().rerankAll(requests, { window: WINDOW })) {
        expect(error).toBeUndefined()
        done[name]++
        if (done.a + done.b === COUNT) halfway = { ...done }
      }
    }
    const runs = [run('a'), run('b')]
    await until('both have filled their windows', async () => (await stage().queued('bulk')) === 2 * WINDOW)
    await stage().worker({ scoreCacheTtlMs: 0 })
    await Promise.all(runs)
    expect(Math.abs(halfway!.a - halfway!.b)).toBeLessThanOrEqual(2 * WINDOW)
  })

  it('is held in small portions, which the worker tells', async () => {
    const worker = await stage().worker({ scoreCacheTtlMs: 0 })
    const client = stage().client()
    expect(await client.workers()).toMatchObject([{ id: worker.id, pid: process.pid, appetite: 2, jobsPerSecond: 0 }])
    await worker.close()
    expect(await client.workers()).toEqual([])
  })

  it('stays in its lane when it is submitted again with another priority, and is scored once', async () => {
    const client = stage().client()
    await client.submit(request('same', BATCH, BULK))
    await client.submit(request('same', BATCH))
    expect([await stage().queued('interactive'), await stage().queued('bulk')]).toEqual([0, 1])
    expect(await client.status('same')).toMatchObject({ state: 'waiting' })
  })

  it('has a bound of its own', async () => {
    const client = stage().client({ maxQueuedJobs: 2 })
    await client.submit(request('one', 1, BULK))
    await client.submit(request('two', 1, { priority: 900 }))
    await expect(client.submit(request('three', 1, BULK))).rejects.toMatchObject({
      code: 'overloaded',
      message: expect.stringContaining('the bulk lane'),
    })
    await client.submit(request('four', 1))
  })
})

describe('both lanes', () => {
  it('lose nothing when a worker is killed', async () => {
    const flags = ['--lock-ms', '1000', '--score-cache-ttl-ms', '0']
    const first = workerProcess(stage(), ...flags)
    await ready(first)
    const client = stage().client({ maxJobPairs: 500 })
    const asked = [request('interactive', 3000), request('bulk', 3000, BULK), request('small', 5, BULK)]
    const results = asked.map((r) => client.rerank(r))
    const held = () => Promise.all(LANES.map((lane) => active(stage(), lane)))
    await until('it holds jobs of both', async () => (await held()).every((jobs) => jobs > 0))
    first.kill('SIGKILL')
    await once(first, 'exit')
    await ready(workerProcess(stage(), ...flags))
    expect((await Promise.all(results)).map(({ results }) => results.length)).toEqual([3000, 3000, 5])
  })

  it('can be cancelled, waiting or running', async () => {
    const client = stage().client()
    for (const more of [{ priority: 0 }, BULK]) {
      const id = await client.submit(request(`waiting ${more.priority}`, 5, more))
      expect(await client.cancel(id)).toBe(true)
      expect(await client.status(id)).toMatchObject({ state: 'cancelled' })
    }
    expect([await stage().queued('interactive'), await stage().queued('bulk')]).toEqual([0, 0])
    const { pace, batcher } = await pacedWorker(stage())
    const ids = [await client.submit(request('a', 100)), await client.submit(request('b', 100, BULK))]
    await until('both run', () => batcher.pairsWaiting === 200)
    for (const id of ids) expect(await client.cancel(id)).toBe(true)
    await until('their pairs are dropped', () => batcher.pairsWaiting === 0)
    pace.release()
    for (const id of ids) expect(await client.status(id)).toMatchObject({ state: 'cancelled' })
  })

  it('are in the gauges of the queue', async () => {
    const client = stage().client()
    const worker = await stage().worker()
    // Before the first request, too.
    expect(await worker.metrics.registry.metrics()).toMatch(/^rankmill_queue_jobs\{.*lane="bulk",state="waiting"\} 0$/m)
    await client.rerank(request('a', 1, BULK))
    await worker.metrics.registry.metrics().then((text) => {
      for (const lane of LANES)
        expect(text).toMatch(new RegExp(`^rankmill_queue_jobs\\{.*lane="${lane}",state="waiting"\\} 0$`, 'm'))
      expect(text).toMatch(/^rankmill_requests_total\{.*lane="bulk",outcome="completed"\} 1$/m)
    })
  })
})
