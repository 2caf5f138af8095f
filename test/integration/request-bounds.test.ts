/** Bounds that hold however many come at once, and what looking at the queue costs: the same whatever it holds. */
import type { Redis } from 'ioredis'
import { Registry } from 'prom-client'
import { describe, expect, it } from 'vitest'
import { collectQueues } from '../../monitoring/queue-collector.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { useOwnRedis } from './own-redis.js'
import { documents, lifeOf, pacedWorker } from './request-stage.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const request = (id: string, count = 3): RerankInput => ({ id, query: id, documents: documents(id, count) })

describe('maxQueuedJobs', () => {
  it('is never passed, by 500 producers at once or by one large request', async () => {
    const clients = [1, 2, 3, 4, 5].map(() => stage().client({ maxQueuedJobs: 10, maxJobPairs: 4 }))
    const outcomes = await Promise.allSettled(
      Array.from({ length: 500 }, (_, i) => clients[i % 5]!.submit(request(`r${i}`, i % 7 === 0 ? 7 : 3))),
    )
    expect(await stage().queued('interactive')).toBeLessThanOrEqual(10)
    expect(await stage().queued('interactive')).toBeGreaterThan(8)
    const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
    expect(refused.length).toBeGreaterThan(480)
    for (const error of refused) expect(error).toMatchObject({ code: 'overloaded', details: { retryAfterMs: 1000 } })
    const large = expect(clients[0]!.submit(request('large', 44)))
    await large.rejects.toMatchObject({
      code: 'too_many_documents',
      message: expect.stringMatching(/11 jobs.*10 \(maxQueuedJobs\)/),
    })
    expect(await stage().keys('*large*')).toEqual([])
    // What a worker has taken is free again.
    await stage().worker()
    await until('all are done', async () => (await stage().redis.exists(lifeOf(stage()).keys.load)) === 0)
    await clients[0]!.submit(request('after', 40))
    expect((await clients[0]!.result('after')).results).toHaveLength(40)
  })

  it('counts what was given back, and frees what was cancelled', async () => {
    const client = stage().client({ maxQueuedJobs: 2 })
    const { worker } = await pacedWorker(stage(), { concurrency: 2 })
    await client.submit(request('a'))
    await client.submit(request('b'))
    await until(
      'both are taken',
      async () => (await client.status('b')).state === 'running' && (await client.status('a')).state === 'running',
    )
    await worker.close(true)
    await expect(client.submit(request('c'))).rejects.toMatchObject({ code: 'overloaded' })
    await client.cancel('a')
    await client.submit(request('c'))
    await stage().worker()
    for (const id of ['b', 'c']) await client.result(id)
    expect(await stage().redis.exists(lifeOf(stage()).keys.load)).toBe(0)
  })
})

it('maxRequestBytes and maxQueuedBytes refuse what is too large, and leave nothing of it', async () => {
  const long = (id: string, count: number) => ({
    id,
    query: 'q',
    documents: Array.from({ length: count }, () => 'x'.repeat(1000)),
  })
  const client = stage().client({ maxRequestBytes: 20_000, maxQueuedBytes: 30_000, maxJobPairs: 4 })
  await expect(client.submit(long('r', 21))).rejects.toMatchObject({
    code: 'too_many_documents',
    message: expect.stringMatching(/20000 bytes \(maxRequestBytes\), got 2\d{4}/),
  })
  expect(await stage().keys()).toEqual([])
  await client.submit(long('a', 18))
  await expect(client.submit(long('b', 18))).rejects.toMatchObject({
    code: 'overloaded',
    message: expect.stringContaining('maxQueuedBytes'),
  })
  await client.submit(long('c', 8))
  await stage().worker()
  for (const id of ['a', 'c']) await client.result(id)
  await client.submit(long('b', 18))
  await client.result('b')
})

/** Bytes that Redis sent meanwhile, without those of asking it. */
async function sentBy(admin: Redis, call: () => Promise<unknown>): Promise<number> {
  const sent = async () => Number(/total_net_output_bytes:(\d+)/.exec(await admin.info('stats'))?.[1])
  const ask = (await sent()) - (await sent())
  const before = await sent()
  await call()
  return (await sent()) - before + ask
}

describe('what is read does not grow with what is queued:', () => {
  it('status() and submitting again, of 5,000 documents', async () => {
    const { url, admin } = await ownRedis()
    const client = stage().client({ redis: url })
    const large = { id: 'large', query: 'q', documents: documents('x'.repeat(1000), 5000), returnDocuments: true }
    await client.submit(large)
    const key = lifeOf(stage()).keys.request('large')
    await until('it is known to be queued', async () => (await admin.hget(key, 'queued')) !== null)
    for (const call of [() => client.status('large'), () => client.submit(large)]) {
      expect(await sentBy(admin, call)).toBeLessThan(2000)
    }
    await stage().worker({ redis: url, scoreCacheTtlMs: 0 })
    expect((await client.result('large')).results).toHaveLength(5000)
    for (const call of [() => client.status('large'), () => client.submit(large)]) {
      // A worker's heartbeats go on meanwhile.
      expect(await sentBy(admin, call)).toBeLessThan(20_000)
    }
  })

  it('a scrape, with 40 MB of waiting jobs', async () => {
    const { url, admin } = await ownRedis()
    const client = stage().client({ redis: url })
    for (let i = 0; i < 4; i++)
      await client.submit({ id: `r${i}`, query: 'q', documents: documents('y'.repeat(20_000), 500) })
    const registry = new Registry()
    const { keys } = lifeOf(stage())
    collectQueues(registry, { all: [{ index: 0, count: 1, redis: admin, keys }] }, () => true)
    let text = ''
    const bytes = await sentBy(admin, async () => {
      text = await registry.metrics()
    })
    expect(bytes).toBeLessThan(5000)
    expect(text).toMatch(/rankmill_queue_jobs\{.*lane="interactive",state="waiting"\} 8/)
    expect(text).toMatch(/rankmill_queue_time_to_drain_seconds\{.*lane="interactive"\} \+Inf/)
  })
})
