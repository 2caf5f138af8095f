/** Each pair is scored once: by caches in the worker and in Redis, and by jobs that wait for each other. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { RerankWorker } from '../../worker/worker.js'
import { until, useStage } from './stage.js'

const stage = useStage()

async function counted(worker: RerankWorker): Promise<{ scored: number; cached: number; batched: number }> {
  const { values } = await worker.metrics.pairs.get()
  const of = (source: string) => values.find(({ labels }) => labels.source === source)?.value ?? 0
  const sum = (await worker.metrics.batchPairs.get()).values.find(({ metricName }) => metricName?.endsWith('_sum'))
  return { scored: of('model'), cached: of('cache'), batched: sum?.value ?? 0 }
}

describe('identical pairs', () => {
  it('are scored once, however many requests ask for them at the same time', async () => {
    const worker = await stage().worker({ batchPairs: 4 })
    const client = stage().client({ maxJobPairs: 40 })
    const documents = Array.from({ length: 100 }, (_, i) => `document ${i} of a queue`)
    const ask = (_: unknown, i: number) => client.rerank({ id: `request ${i}`, query: 'job', documents })
    const results = await Promise.all(Array.from({ length: 20 }, ask))
    expect(await counted(worker)).toEqual({ scored: 100, cached: 1900, batched: 100 })
    expect(results.reduce((sum, { usage }) => sum + usage.scored, 0)).toBe(100)
    for (const { usage, results: rows } of results) {
      expect(usage.scored + usage.cached).toBe(100)
      expect(rows).toEqual(results[0]!.results)
    }
  })

  it('are scored as if alone, in random overlapping requests', async () => {
    const [shared, alone] = await Promise.all([
      stage().worker({ batchPairs: 3 }),
      stage().worker({ scoreCacheTtlMs: 0, queue: 'alone' }),
    ])
    const document = fc.integer({ min: 0, max: 30 }).map((i) => `document ${i}${' word'.repeat(i % 7)}`)
    const request = fc.record({
      query: fc.constantFrom('job', 'queue'),
      documents: fc.array(document, { minLength: 1, maxLength: 20 }),
      priority: fc.constantFrom(0, 0, 7),
    })
    const client = stage().client({ maxJobPairs: 6 })
    const reference = stage().client({ queue: 'alone' })
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 10 }), async (requests) => {
        const results = await Promise.all(requests.map((one) => client.rerank(one)))
        const expected = await Promise.all(requests.map((one) => reference.rerank(one)))
        expect(results.map((r) => r.results)).toEqual(expected.map((r) => r.results))
      }),
      { numRuns: 15 },
    )
    const { scored, batched } = await counted(shared)
    expect(batched).toBe(scored)
    expect((await counted(alone)).cached).toBe(0)
  })

  it('of a cancelled request are scored for those that waited for them', async () => {
    const worker = await stage().worker({ batchPairs: 1 })
    const client = stage().client({ maxJobPairs: 5000 })
    const documents = Array.from({ length: 4000 }, (_, i) => `document ${i} ${'word '.repeat(40)}`)
    const first = await client.submit({ id: 'first', query: 'job', documents })
    await until('it is being scored', async () => (await counted(worker)).batched > 0)
    const second = await client.submit({ id: 'second', query: 'job', documents: [...documents, 'one more'] })
    await until('both run', async () => (await client.status(second)).state === 'running')
    expect((await client.status(first)).state).toBe('running')
    await client.cancel(first)
    const result = await client.result(second)
    expect(result.results).toHaveLength(4001)
    expect(result.usage).toMatchObject({ scored: 4001, cached: 0 })
    await expect(client.result(first)).rejects.toMatchObject({ code: 'cancelled' })
  })
})

describe('known scores', () => {
  it('stay in the worker when Redis has lost them, and in Redis when the worker has', async () => {
    const worker = await stage().worker()
    const client = stage().client()
    const ask = () => client.rerank({ query: 'job', documents: ['a queue', 'a retry'] })
    const first = await ask()
    await stage().redis.unlink(await stage().keys('scores:*'))
    expect((await ask()).usage).toMatchObject({ cached: 2, scored: 0 })
    expect(await stage().keys('scores:*')).toEqual([])
    await worker.close()
    await stage().worker({ localScoreCacheEntries: 1 })
    expect((await ask()).usage).toMatchObject({ cached: 0, scored: 2 })
    const again = await ask()
    expect(again.usage).toMatchObject({ cached: 2, scored: 0 })
    expect(again.results).toEqual(first.results)
  })

  it('are kept in Redis for scoreCacheTtlMs, and not at all where it is 0', async () => {
    await stage().worker({ scoreCacheTtlMs: 50_000 })
    const documents = ['a queue']
    await stage().client().rerank({ query: 'job', documents })
    const [key] = await stage().keys('scores:*')
    const ttl = await stage().redis.pttl(key!)
    expect(ttl > 0 && ttl <= 50_000).toBe(true)
    await stage().worker({ scoreCacheTtlMs: 0, queue: 'off' })
    const off = stage().client({ queue: 'off' })
    for (let i = 0; i < 2; i++) {
      expect((await off.rerank({ query: 'job', documents })).usage).toMatchObject({ cached: 0, scored: 1 })
    }
  })

  it('are no more in Redis than sharedScoreCacheEntries: those of the queries written last', async () => {
    await stage().worker({ sharedScoreCacheEntries: 10, localScoreCacheEntries: 0 })
    const client = stage().client()
    const documents = ['a queue', 'a retry', 'a job', 'a lock']
    const cached = async (query: string) => (await client.rerank({ query, documents })).usage.cached
    for (const query of ['one', 'two', 'three']) expect(await cached(query)).toBe(0)
    expect(await stage().keys('scores:*')).toHaveLength(2)
    expect(await stage().redis.hget(`${stage().prefix}:score-counts`, '')).toBe('8')
    expect([await cached('two'), await cached('three'), await cached('one')]).toEqual([4, 4, 0])
    // Nothing was written for "two" since, and "three" came after it.
    expect([await cached('three'), await cached('two')]).toEqual([4, 0])
  })

  it('are counted in Redis only as long as they are there', async () => {
    await stage().worker({ scoreCacheTtlMs: 300, localScoreCacheEntries: 0 })
    const client = stage().client()
    await client.rerank({ query: 'one', documents: ['a queue', 'a retry'] })
    await until('the scores have expired', async () => (await stage().keys('scores:*')).length === 0)
    await client.rerank({ query: 'two', documents: ['a queue'] })
    const counts = await stage().redis.hgetall(`${stage().prefix}:score-counts`)
    expect(counts['']).toBe('1')
    expect(Object.keys(counts)).toHaveLength(2)
  })
})
