/** Hand-overs of a request that meet a fault: one true answer each, whoever dies, sleeps, comes late or asks twice. */
import { Queue, Worker } from 'bullmq'
import { describe, expect, it } from 'vitest'
import type { RerankClient } from '../../producer/client.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { errorEnd, type NewNote } from '../../shared/redis/request-life.js'
import { useOwnRedis } from './own-redis.js'
import { caretakerOf, documents, endsOf, lifeOf, pacedWorker } from './request-stage.js'
import { type Stage, until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()

const request = (id: string, count = 3): RerankInput => ({ id, query: id, documents: documents(id, count) })

function expectWhole({ results }: RerankResult, count: number): void {
  expect(results.map(({ index }) => index).sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i))
}

const isRunning = async (client: RerankClient, id: string) => (await client.status(id)).state === 'running'

it('two producers that cut it differently have one answer, cut as the first one did', async () => {
  const [coarse, fine] = [stage().client({ maxJobPairs: 150 }), stage().client({ maxJobPairs: 40 })]
  const ids = Array.from({ length: 8 }, (_, i) => `request ${i}`)
  await Promise.all(ids.flatMap((id) => [coarse.submit(request(id, 300)), fine.submit(request(id, 300))]))
  await Promise.all([stage().worker(), stage().worker()])
  for (const id of ids) {
    await coarse.submit(request(id, 300))
    expectWhole(await fine.result(id), 300)
  }
  expect(await endsOf(stage())).toEqual({ completed: 8 })
})

it('a Redis that is full for a while costs none of the requests in hand', async () => {
  const { url, admin } = await ownRedis()
  const options = { redis: url, maxJobPairs: 8, concurrency: 64 }
  const { pace, worker } = await pacedWorker(stage(), options)
  const client = stage().client(options)
  const ids = Array.from({ length: 20 }, (_, i) => `request ${i}`)
  for (const [i, id] of ids.entries()) await client.submit(request(id, i % 2 ? 4 : 20))
  await until('all are in hand', async () => (await Promise.all(ids.map((id) => isRunning(client, id)))).every(Boolean))
  const refused = async () => Number(/errorstat_OOM:count=(\d+)/.exec(await admin.info('errorstats'))?.[1] ?? 0)
  await admin.config('SET', 'maxmemory', 1)
  pace.release()
  await until('Redis has refused much', async () => (await refused()) > 40)
  await expect(client.submit(request('another'))).rejects.toMatchObject({ code: 'redis_full' })
  await admin.config('SET', 'maxmemory', 0)
  for (const [i, id] of ids.entries()) expectWhole(await client.result(id), i % 2 ? 4 : 20)
  for (const id of ids) expect((await client.status(id)).state).toBe('completed')
  await client.submit(request('another'))
  await client.result('another')
  await worker.close()
  const held = await admin.keys('*:held:*')
  expect(held).toEqual([])
})

it('asked again under its id after its deadline, it is not ended by the job of its former life', async () => {
  const { pace } = await pacedWorker(stage(), { batchPairs: 2 })
  const client = stage().client()
  for (const id of ['a', 'b', 'c', 'd']) {
    const first = client.rerank({ ...request(id), deadlineMs: 1500 })
    const outcome = expect(first).rejects.toMatchObject({ code: 'deadline_exceeded' })
    await until('it runs', () => isRunning(client, id))
    await outcome
    await client.submit(request(id))
  }
  const results = ['a', 'b', 'c', 'd'].map((id) => client.result(id))
  pace.release()
  for (const result of results) expectWhole(await result, 3)
  expect(await endsOf(stage())).toEqual({ deadline_exceeded: 4, completed: 4 })
})

describe('a part that fails', () => {
  it('does not end the request once more when it is submitted again at once', async () => {
    await Promise.all([stage().worker({ scoreCacheTtlMs: 0 }), stage().worker({ scoreCacheTtlMs: 0 })])
    const client = stage().client({ maxJobPairs: 2, attempts: 1 })
    const { keys } = lifeOf(stage())
    const { redis } = stage()
    const texts = documents('corpus', 120).map((text, i) => ({ id: `p${i}`, text }))
    await client.putCorpus('c', texts)
    const manifest = keys.corpusManifest('c')
    for (let round = 0; round < 20; round++) {
      // Reading it is an error of the kind that another try may help.
      await redis.multi().rename(manifest, `${manifest}:away`).lpush(manifest, 'no manifest').exec()
      const at = (i: number) => `p${round * 6 + i}`
      const split = {
        id: `split ${round}`,
        query: 'q',
        documents: { corpus: 'c', version: '1', ids: [0, 1, 2, 3, 4].map(at) },
      }
      const single = { id: `single ${round}`, query: 'q', documents: { corpus: 'c', version: '1', ids: [at(5)] } }
      await Promise.all(
        [split, single].map((each) => expect(client.rerank(each)).rejects.toMatchObject({ retryable: true })),
      )
      await redis.rename(`${manifest}:away`, manifest)
      const again = await Promise.all([client.rerank(split), client.rerank(single)])
      expectWhole(again[0]!, 5)
      expectWhole(again[1]!, 1)
    }
    expect(await endsOf(stage())).toMatchObject({ completed: 40 })
  })
})

it('parts that were scored wait for the rest as long as the request is remembered', async () => {
  const client = stage().client({ maxJobPairs: 2, resultTtlMs: 1000 })
  const first = await pacedWorker(stage(), { batchPairs: 2, concurrency: 1 })
  await client.submit(request('split', 4))
  await until('a batch is there', () => first.pace.handed > 0)
  first.pace.step()
  const { keys } = lifeOf(stage())
  await until('a part is scored', async () => (await stage().redis.hlen(keys.parts('split'))) === 1)
  await first.worker.close(true)
  expect(await stage().redis.pttl(keys.parts('split'))).toBeGreaterThan(3_600_000)
  await stage().worker({ scoreCacheTtlMs: 0 })
  expectWhole(await client.result('split'), 4)
})

describe('one who gives up', () => {
  it.each(['deadline', 'abort', 'timeout'] as const)(
    'by %s does not end what another has submitted for good',
    async (how) => {
      const [owner, caller] = [stage().client(), stage().client()]
      const stop = new AbortController()
      // In either order.
      await owner.submit(request('first his'))
      const waits = ['first his', 'first mine'].map((id) =>
        caller.rerank(
          { ...request(id), ...(how === 'deadline' ? { deadlineMs: 1500 } : {}) },
          { signal: stop.signal, ...(how === 'timeout' ? { timeoutMs: 1500 } : {}) },
        ),
      )
      const outcomes = Promise.allSettled(waits)
      await until('both are noted', async () => (await stage().queued('interactive')) === 2)
      await owner.submit(request('first mine'))
      if (how === 'abort') stop.abort(new Error('enough'))
      expect((await outcomes).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
      await stage().worker()
      for (const id of ['first his', 'first mine']) expectWhole(await owner.result(id), 3)
      expect(await endsOf(stage())).toEqual({ completed: 2 })
    },
  )

  it('gives up the life of the request that it waited for, and no later one', async () => {
    const { life } = lifeOf(stage())
    const [owner, caller] = [stage().client(), stage().client()]
    const stop = new AbortController()
    const waiting = expect(caller.rerank(request('r'), { signal: stop.signal })).rejects.toThrow('enough')
    await until('it is queued', async () => (await stage().queued('interactive')) === 1)
    const { generation } = (await life.read('r'))!
    // It fails and is opened again before the caller can have heard of it.
    const end = errorEnd({ code: 'worker_lost', message: 'lost' }, generation)
    const again = await noteAgain(stage(), 'r')
    await Promise.all([life.answer({ id: 'r', generation, shared: '' }, end), life.note(again)])
    expect((await life.read('r'))!.generation).toBeGreaterThan(generation)
    stop.abort(new Error('enough'))
    await waiting
    expect(await life.isAnswered('r')).toBe(false)
    await owner.submit(request('r'))
    await stage().worker()
    expectWhole(await owner.result('r'), 3)
  })
})

/** What a producer notes that comes back for a failed request. */
async function noteAgain(s: Stage, id: string): Promise<NewNote> {
  const { keys } = lifeOf(s)
  const fingerprint = (await s.redis.hget(keys.request(id), 'fingerprint')) ?? ''
  const [pool = ''] = await s.redis.hkeys(keys.pools)
  return noteOf(id, fingerprint, pool)
}

function noteOf(id: string, fingerprint: string, pool: string): NewNote {
  return {
    ...{ id, fingerprint, shares: null, model: pool, poolSuffix: '', fallbackModel: pool, lane: 'interactive' },
    ...{ parts: 1, pairs: 3, bytes: 100, deadlineMs: null, interest: 'durable', pinnedCorpus: null, shards: 1 },
    ...{ requestTtlMs: 60_000, resultTtlMs: 60_000, maxQueuedJobs: 1e9, maxQueuedBytes: 1e12, unservedMs: 60_000 },
  }
}

it('a note whose jobs one producer could not queue goes with it, unless another counts on it', async () => {
  const { life, keys } = lifeOf(stage())
  const note = noteOf('r', 'f', 'm')
  for (const interest of ['durable', 'waits'] as const) {
    const first = await life.note({ ...note, interest })
    const second = await life.note({ ...note, interest })
    expect([first.state, second.state]).toEqual(['new', 'unqueued'])
    const { generation } = (await life.read('r'))!
    await life.withdraw('r', generation, null)
    expect(await life.read('r')).toMatchObject({ generation })
    await life.answer({ id: 'r', generation, shared: '' }, errorEnd({ code: 'cancelled', message: '' }, generation))
    await life.forget(['r'])
    await life.note({ ...note, interest })
    await life.withdraw('r', (await life.read('r'))!.generation, null)
    expect(await life.read('r')).toBeUndefined()
    expect(await stage().redis.exists(keys.load, keys.open)).toBe(0)
  }
})

it('every end is counted once, whoever brings it about', async () => {
  const client = stage().client()
  const ended: Record<string, number> = {}
  const count = async (outcome: Promise<unknown>, code = 'completed') => {
    await outcome.catch(() => undefined)
    ended[code] = (ended[code] ?? 0) + 1
  }
  // No worker: the caller ends it.
  await Promise.all(
    [1, 2, 3].map((i) => count(client.rerank({ ...request(`late ${i}`), deadlineMs: 1 }), 'deadline_exceeded')),
  )
  for (const id of ['x', 'y']) {
    await client.submit(request(id))
    await count(client.cancel(id), 'cancelled')
    expect(await client.cancel(id)).toBe(false)
  }
  // A worker ends it, because it comes too late.
  await client.submit({ ...request('too late'), deadlineMs: 1 })
  const worker = await stage().worker()
  await count(client.result('too late'), 'deadline_exceeded')
  const [one, two] = [stage().client(), stage().client({ maxJobPairs: 1 })]
  await Promise.all([1, 2, 3, 4].map((i) => count(Promise.all([one, two].map((each) => each.rerank(request(`${i}`)))))))
  await count(client.rerank({ query: 'q', documents: { corpus: 'absent', ids: ['p'] } }), 'unknown_corpus')
  expect(await endsOf(stage())).toEqual(ended)
  const text = await (await fetch(`${worker.metricsUrl}/metrics`)).text()
  const scraped = (name: string) =>
    [...text.matchAll(new RegExp(`^${name}\\{.*\\} (\\d+)$`, 'gm'))].reduce((sum, [, value]) => sum + Number(value), 0)
  const all = Object.values(ended).reduce((sum, each) => sum + each, 0)
  expect(scraped('rankmill_requests_total')).toBe(all)
  expect(scraped('rankmill_failures_total')).toBe(all - (ended['completed'] ?? 0))
})

describe.each([5000, -5000])('a worker whose clock is %i ms off', (skewMs) => {
  it('does what has 3 s left, and refuses what is late by Redis’ clock', async () => {
    const client = stage().client()
    await client.submit({ ...request('late'), deadlineMs: 1 })
    const { pace } = await pacedWorker(stage(), {}, () => Date.now() + skewMs)
    pace.release()
    await expect(client.result('late')).rejects.toMatchObject({ code: 'deadline_exceeded' })
    const result = await client.rerank({ ...request('in time'), deadlineMs: 3000 })
    expectWhole(result, 3)
    expect(Math.abs(result.timings_ms.total)).toBeLessThan(3000)
    expect(result.timings_ms.queued).toBeGreaterThanOrEqual(0)
  })
})

it('a redelivered job of an answered request, or of a former life, changes nothing', async () => {
  const client = stage().client()
  const { prefix, redis } = stage()
  await client.submit(request('r'))
  const name = stage().queueKey('interactive', '').split(':').slice(1, -1).join(':')
  const queue = new Queue(name, { connection: redis, prefix })
  stage().onEnd(() => queue.close())
  const [job] = await queue.getWaiting()
  await stage().worker()
  const answer = await client.result('r')
  await queue.add('rerank', job!.data, { jobId: `${job!.id}.again`, removeOnComplete: true })
  await queue.add('rerank', { ...job!.data, generation: 1 }, { jobId: `${job!.id}.old`, removeOnComplete: true })
  await until(
    'both are gone',
    async () => (await stage().keys('*.again')).length + (await stage().keys('*.old')).length === 0,
  )
  expect(await client.result('r')).toEqual(answer)
  expect(await endsOf(stage())).toEqual({ completed: 1 })
})

it('a job that fails elsewhere without saying so is answered by who looks after the others', async () => {
  const { caretaker, reconciled } = await caretakerOf(stage())
  const client = stage().client({ unservedMs: 1000 })
  const { prefix, redis } = stage()
  await client.submit(request('r'))
  const name = stage().queueKey('interactive', '').split(':').slice(1, -1).join(':')
  const connection = redis.duplicate({ maxRetriesPerRequest: null })
  const dying = new Worker(name, null, { connection, prefix })
  stage().onEnd(async () => {
    await dying.close()
    connection.disconnect()
  })
  const job = await dying.getNextJob('token')
  await job!.moveToFailed(Object.assign(new Error('gone'), { name: 'UnrecoverableError' }), 'token')
  await until('it was looked after', async () => {
    await caretaker.look()
    return reconciled.length > 0
  })
  await expect(client.result('r')).rejects.toMatchObject({ code: 'worker_lost' })
  expect(reconciled).toEqual(['r'])
})
