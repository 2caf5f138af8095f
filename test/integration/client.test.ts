/** What producers rely on: the client library over a real Redis, with real workers. */
import { getEventListeners } from 'node:events'
import { Queue } from 'bullmq'
import { describe, expect, it } from 'vitest'
import type { RerankOutcome } from '../../producer/client.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const DOCUMENTS = [
  'red apples and green pears',
  'a queue of jobs',
  'workers take jobs from the queue',
  '',
  'the quick brown fox',
]

describe('rerank', () => {
  it('returns every document, best first, with usage and timings', async () => {
    await stage().worker()
    const result = await stage().client().rerank({ id: 'my request', query: 'job queue', documents: DOCUMENTS })
    expect(result.id).toBe('my request')
    expect(result.results.map(({ index }) => index).sort()).toEqual([0, 1, 2, 3, 4])
    const scores = result.results.map(({ relevance_score }) => relevance_score)
    expect(scores).toEqual([...scores].sort((a, b) => b - a))
    for (const score of scores) expect(score > 0 && score < 1).toBe(true)
    expect(result.usage).toMatchObject({ pairs: 5, scored: 5, cached: 0, truncated: 0 })
    expect(result.usage.tokens).toBeGreaterThan(20)
    expect(result.timings_ms.total).toBeGreaterThanOrEqual(result.timings_ms.inference)
  })

  it('returns the first topN, with ids and texts where they are wanted', async () => {
    await stage().worker()
    const documents = DOCUMENTS.map((text, i) => ({ id: `d${i}`, text }))
    const client = stage().client()
    const all = await client.rerank({ query: 'job queue', documents })
    const two = await client.rerank({ query: 'job queue', documents, topN: 2, returnDocuments: true })
    expect(two.results).toEqual(
      all.results.slice(0, 2).map((r) => ({ ...r, document: { text: documents[r.index]!.text } })),
    )
  })

  it('takes passages of a stored corpus by id, and sees changes of the corpus', async () => {
    await stage().worker({ scoreCacheTtlMs: 0 })
    const client = stage().client()
    await client.putCorpus(
      'fruit',
      DOCUMENTS.map((text, i) => ({ id: `p${i}`, text })),
    )
    const inline = await client.rerank({ query: 'jobs', documents: [DOCUMENTS[2]!, DOCUMENTS[0]!] })
    const reference = { query: 'jobs', documents: { corpus: 'fruit', ids: ['p2', 'p0'] } }
    const named = await client.rerank(reference)
    expect(named.results.map(({ id: _, ...rest }) => rest)).toEqual(inline.results)
    expect(new Set(named.results.map(({ id }) => id))).toEqual(new Set(['p0', 'p2']))
    await client.putCorpus('fruit', [{ id: 'p2', text: DOCUMENTS[4]! }])
    const changed = await client.rerank(reference)
    expect(changed.results.find(({ id }) => id === 'p2')).not.toEqual(named.results.find(({ id }) => id === 'p2'))
  })

  it('names the passages that a corpus lacks', async () => {
    await stage().worker()
    const client = stage().client()
    const ask = (corpus: string, ids: string[]) => client.rerank({ query: 'q', documents: { corpus, ids } })
    await expect(ask('none', ['a'])).rejects.toMatchObject({
      code: 'unknown_corpus',
      message: expect.stringContaining('"none"'),
    })
    await client.putCorpus('some', [{ id: 'a', text: 'x' }])
    await expect(ask('some', ['a', 'b', 'c'])).rejects.toMatchObject({
      code: 'missing_documents',
      message: expect.stringContaining('"b", "c"'),
    })
  })

  it('does not score a pair twice: scores are cached, exactly', async () => {
    await stage().worker()
    const client = stage().client()
    const first = await client.rerank({ query: 'job queue', documents: DOCUMENTS })
    const again = await client.rerank({ query: 'job queue', documents: [...DOCUMENTS, 'one more'] })
    expect(again.usage).toMatchObject({ pairs: 6, scored: 1, cached: 5 })
    expect(again.results.filter(({ index }) => index < 5)).toEqual(first.results)
    const other = await client.rerank({ query: 'job queue', documents: DOCUMENTS, maxTokensPerDoc: 2 })
    expect(other.usage.cached).toBe(0)
    expect(other.usage.truncated).toBe(4)
  })

  it('waits for a worker that serves its model, says so, and ends where none comes', async () => {
    await stage().worker({ unservedMs: 1000 })
    const client = stage().client({ unservedMs: 1000 })
    const answer = expect(
      client.rerank({ id: 'r', query: 'q', documents: ['a'], model: 'nope' }),
    ).rejects.toMatchObject({
      code: 'unknown_model',
      message: expect.stringContaining('no worker has served nope'),
    })
    await until('it is noted', async () => (await client.status('r').catch(() => undefined)) !== undefined)
    expect(await client.status('r')).toMatchObject({ state: 'waiting', waitingFor: 'no worker serves nope' })
    await answer
    await expect(client.rerank({ query: 'q', documents: ['a'] })).resolves.toBeDefined()
  })
})

describe('a request larger than a job', () => {
  it('gives exactly what one worker with one job would give, from several workers', async () => {
    const documents = Array.from({ length: 10_000 }, (_, i) => ({
      id: `d${i}`,
      text: `passage ${i % 700} of ${i % 13} words about ${'jobs and queues '.repeat(i % 4)}`,
    }))
    const request = { query: 'queues', documents }
    await Promise.all([
      stage().worker({ batchPairs: 64, scoreCacheTtlMs: 0 }),
      stage().worker({ batchPairs: 7, scoreCacheTtlMs: 0 }),
    ])
    const split = await stage().client({ maxJobPairs: 256 }).rerank(request)
    const whole = await stage().client({ maxJobPairs: 10_000 }).rerank(request)
    expect(split.usage).toEqual(whole.usage)
    expect(split.results).toEqual(whole.results)
    const first = await stage()
      .client({ maxJobPairs: 999 })
      .rerank({ ...request, topN: 10 })
    expect(first.results).toEqual(whole.results.slice(0, 10))
  })

  it('fails as a whole when a part fails, and can be tried again', async () => {
    await stage().worker()
    const client = stage().client({ maxJobPairs: 2 })
    await client.putCorpus(
      'c',
      [1, 2, 3, 4, 5].map((i) => ({ id: `p${i}`, text: `text ${i}` })),
    )
    const request = { id: 'parted', query: 'q', documents: { corpus: 'c', ids: ['p1', 'p2', 'p3', 'p4', 'p5', 'p6'] } }
    await expect(client.rerank(request)).rejects.toMatchObject({ code: 'missing_documents' })
    expect(await client.status('parted')).toMatchObject({ state: 'failed', pairs: 6 })
  })
})

describe('a submitted request', () => {
  it('can be asked for later, by anybody who knows its id', async () => {
    const id = await stage().client().submit({ query: 'q', documents: DOCUMENTS })
    expect(await stage().client().status(id)).toMatchObject({ id, state: 'waiting', pairs: 5 })
    const waiting = stage().client().result(id)
    await stage().worker()
    const result = await waiting
    expect(result.results).toHaveLength(5)
    expect(await stage().client().result(id)).toEqual(result)
    expect(await stage().client().status(id)).toMatchObject({ state: 'completed' })
  })

  it('is the same request under the same id, and a conflict with other content', async () => {
    const client = stage().client()
    const request = { id: 'twice', query: 'q', documents: DOCUMENTS }
    await Promise.all([client.submit(request), client.submit(request), stage().client().submit(request)])
    await expect(client.submit({ ...request, query: 'other' })).rejects.toMatchObject({
      code: 'conflict',
      details: { param: 'id' },
    })
    const worker = await stage().worker()
    const results = await Promise.all([client.result('twice'), client.rerank(request)])
    expect(results[0]).toEqual(results[1])
    const ended = async () =>
      (await worker.metrics.requestDuration.get()).values.find(({ metricName }) => metricName?.endsWith('_count'))
        ?.value
    // It is counted when the worker hears that it was written.
    await until('it is counted', async () => (await ended()) !== undefined)
    expect(await ended()).toBe(1)
  })

  it('is unknown when nobody submitted it', async () => {
    const client = stage().client()
    for (const call of [() => client.status('x'), () => client.result('x'), () => client.cancel('x')]) {
      await expect(call()).rejects.toMatchObject({ code: 'not_found' })
    }
  })

  it('ends as cancelled, and is not scored', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: DOCUMENTS })
    const waiting = expect(stage().client().result(id)).rejects.toMatchObject({ code: 'cancelled' })
    expect(await client.cancel(id)).toBe(true)
    expect(await client.cancel(id)).toBe(false)
    await waiting
    expect(await client.status(id)).toMatchObject({ state: 'cancelled' })
    const queue = new Queue('rerank', { connection: stage().redis, prefix: stage().prefix })
    expect(await queue.getJobCounts('waiting', 'prioritized', 'delayed')).toEqual({
      waiting: 0,
      prioritized: 0,
      delayed: 0,
    })
    await queue.close()
  })

  it('is dropped by the worker that runs it when it is cancelled', async () => {
    const worker = await stage().worker({ batchPairs: 1, scoreCacheTtlMs: 0 })
    const client = stage().client({ maxJobPairs: 50_000 })
    const documents = Array.from({ length: 20_000 }, (_, i) => `a long text number ${i} ${'word '.repeat(50)}`)
    const id = await client.submit({ query: 'q', documents })
    await until('the worker has begun', async () =>
      (await worker.metrics.batchPairs.get()).values.some(({ value }) => value > 0),
    )
    await client.cancel(id)
    const quick = await client.rerank({ query: 'q', documents: ['a'] })
    expect(quick.results).toHaveLength(1)
    const scored = (await worker.metrics.batchPairs.get()).values.find(({ metricName }) =>
      metricName?.endsWith('_sum'),
    )?.value
    expect(scored).toBeLessThan(20_000)
  })

  it('is never scored after its deadline', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: DOCUMENTS, deadlineMs: 1 })
    await until('the deadline has passed', async () => Date.now() > ((await client.status(id)).deadlineAt ?? 0))
    const worker = await stage().worker()
    await expect(client.result(id)).rejects.toMatchObject({ code: 'deadline_exceeded' })
    expect(
      (await worker.metrics.batchPairs.get()).values.find(({ metricName }) => metricName?.endsWith('_count'))?.value ??
        0,
    ).toBe(0)
  })

  it('ends at its deadline for its caller when there is no worker', async () => {
    const client = stage().client()
    await expect(client.rerank({ id: 'late', query: 'q', documents: ['a'], deadlineMs: 50 })).rejects.toMatchObject({
      code: 'deadline_exceeded',
    })
    await until('its job is gone', async () => (await stage().queued('interactive')) === 0)
    // The same request may be tried again, since that can help.
    await stage().worker()
    const retried = await client.rerank({ id: 'late', query: 'q', documents: ['a'], deadlineMs: 50_000 })
    expect(retried.results).toHaveLength(1)
  })

  it('can be waited for as long as its caller likes, and no longer', async () => {
    const client = stage().client()
    await expect(client.rerank({ id: 'slow', query: 'q', documents: ['a'] }, { timeoutMs: 30 })).rejects.toMatchObject({
      code: 'timeout',
    })
    expect(await client.status('slow')).toMatchObject({ state: 'waiting' })
    const controller = new AbortController()
    const aborted = client.rerank({ id: 'aborted', query: 'q', documents: ['a'] }, { signal: controller.signal })
    await until('it is known', async () => (await client.status('aborted').catch(() => undefined)) !== undefined)
    controller.abort(new Error('not needed'))
    await expect(aborted).rejects.toThrow('not needed')
    await until('it is cancelled', async () => (await client.status('aborted')).state === 'cancelled')
  })
})

describe('the queue', () => {
  it('serves better priorities first', async () => {
    const client = stage().client()
    for (const priority of [700, 500, 20, 0, 100])
      await client.submit({ id: `p${priority}`, query: 'q', documents: [`text ${priority}`], priority })
    const order: number[] = []
    const wait = (priority: number) => client.result(`p${priority}`).then(() => order.push(priority))
    const waits = [0, 20, 100, 500, 700].map(wait)
    await stage().worker({ concurrency: 1 })
    await Promise.all(waits)
    // From 500 on it is bulk work, in a lane of its own.
    expect(order.filter((priority) => priority < 500)).toEqual([0, 20, 100])
    expect(order.filter((priority) => priority >= 500)).toEqual([500, 700])
  })

  it('refuses work over its bound, with a hint when to come back', async () => {
    const client = stage().client({ maxQueuedJobs: 2 })
    await client.submit({ query: 'q', documents: ['a'] })
    await client.submit({ query: 'q', documents: ['b'], priority: 5 })
    const error = await client.submit({ query: 'q', documents: ['c'] }).catch((e) => e)
    expect(error).toMatchObject({
      code: 'overloaded',
      retryable: true,
      message: expect.stringContaining('its bounds are 2 (maxQueuedJobs)'),
    })
    expect(error.details.retryAfterMs).toBeGreaterThanOrEqual(1000)
  })

  it('keeps nothing in Redis without a time limit but what waits', async () => {
    await stage().worker()
    const client = stage().client({ maxJobPairs: 2, resultTtlMs: 60_000, requestTtlMs: 120_000 })
    await client.putCorpus('kept', [{ id: 'a', text: 'b' }])
    await client.rerank({ query: 'q', documents: DOCUMENTS })
    const lasting =
      /:(corpora|corpus-manifest|corpus-layer|workers-seen|workers-info|fleet|load|open|pools)|:rerank(-bulk)?@.*:(meta|events|stalled-check|id|marker|active|completed|failed|pc)$/
    const forever = async () => {
      const keys = (await stage().keys()).filter((key) => !lasting.test(key))
      const ttls = await Promise.all(keys.map((key) => stage().redis.pttl(key)))
      return keys.filter((_, i) => ttls[i] === -1)
    }
    // The jobs of the parts go when the request is answered, which may be a moment after who waited knows it.
    await until('nothing is kept for ever', async () => (await forever()).length === 0)
  })
})

describe('waiting', () => {
  it('takes one subscription, whatever the number of waiters', async () => {
    const client = stage().client()
    const ids = await Promise.all(
      Array.from({ length: 50 }, (_, i) => client.submit({ query: 'q', documents: [`text ${i}`] })),
    )
    const results = ids.map((id) => client.result(id))
    const subscriptions = async () => (await stage().redis.pubsub('NUMSUB', `${stage().prefix}:done:rerank`))[1]
    await until('there is a subscription', async () => Number(await subscriptions()) > 0)
    expect(Number(await subscriptions())).toBe(1)
    await stage().worker()
    expect(await Promise.all(results)).toHaveLength(50)
  })

  it('does not hang when the event is lost', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: ['a'] })
    const waiting = client.result(id)
    await until(
      'it is subscribed',
      async () => Number((await stage().redis.pubsub('NUMSUB', `${stage().prefix}:done:rerank`))[1]) === 1,
    )
    // The answer appears without any event, as if the message had been lost on the way.
    const answer = { result: { id, model: 'm', results: [], usage: {}, timings_ms: {} } }
    await stage().redis.set(`${stage().prefix}:result:rerank:${id}`, JSON.stringify(answer), 'PX', 10_000)
    expect((await waiting).model).toBe('m')
  })

  it('goes on after its connections were cut', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: ['a'] })
    const waiting = client.result(id)
    await until(
      'it is subscribed',
      async () => Number((await stage().redis.pubsub('NUMSUB', `${stage().prefix}:done:rerank`))[1]) === 1,
    )
    const clients = String(await stage().redis.client('LIST'))
    for (const line of clients.split('\n').filter((l) => / name=rankmill-(answers|producer) /.test(l))) {
      await stage().redis.client('KILL', 'ID', /id=(\d+)/.exec(line)?.[1] ?? '')
    }
    await stage().worker()
    expect((await waiting).results).toHaveLength(1)
  })

  it('takes as long as it takes where there is no limit, or one beyond what timers can count', async () => {
    const client = stage().client()
    const month = 30 * 86_400_000
    const waits = [
      client.rerank({ query: 'a', documents: ['a'] }, { timeoutMs: Number.POSITIVE_INFINITY }),
      client.rerank({ query: 'b', documents: ['a'] }, { timeoutMs: month }),
      client.rerank({ query: 'c', documents: ['a'], deadlineMs: month }),
    ]
    const early = Promise.race(waits.map((wait) => wait.catch((error) => error)))
    await until('all wait', async () => (await stage().keys('request:*')).length === 3)
    // A timer that overflowed would have fired by the time that one of 1 ms has.
    expect(await client.result('none', { timeoutMs: 1 }).catch(({ code }) => code)).toBe('not_found')
    const short = client.rerank({ query: 'd', documents: ['a'] }, { timeoutMs: 5 }).catch(({ code }) => code)
    expect(await Promise.race([early, short])).toBe('timeout')
    await stage().worker()
    for (const { results } of await Promise.all(waits)) expect(results).toHaveLength(1)
  })

  it('refuses a limit that is no time', async () => {
    const client = stage().client()
    for (const timeoutMs of [-1, Number.NaN])
      await expect(client.rerank({ query: 'q', documents: ['a'] }, { timeoutMs })).rejects.toMatchObject({
        code: 'invalid_request',
        message: expect.stringContaining(`got ${timeoutMs}`),
      })
  })

  it('ends when the client is closed', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: ['a'] })
    const waiting = expect(client.result(id)).rejects.toMatchObject({ code: 'closed' })
    await until(
      'it waits',
      async () => Number((await stage().redis.pubsub('NUMSUB', `${stage().prefix}:done:rerank`))[1]) === 1,
    )
    await client.close()
    await waiting
    await expect(client.submit({ query: 'q', documents: ['a'] })).rejects.toMatchObject({ code: 'closed' })
  })
})

it('leaves nothing behind on a signal that many waits share', async () => {
  await stage().worker()
  const client = stage().client()
  const { signal } = new AbortController()
  const wait = () => client.rerank({ query: 'q', documents: DOCUMENTS }, { signal })
  await Promise.all(Array.from({ length: 20 }, wait))
  expect(getEventListeners(signal, 'abort')).toEqual([])
})

describe('forget', () => {
  it('removes all that Redis holds of answered requests, and nothing else', async () => {
    await stage().worker({ scoreCacheTtlMs: 0 })
    const client = stage().client({ maxJobPairs: 2 })
    const bulk = await client.rerank({ query: 'q', documents: DOCUMENTS, priority: 500 })
    const whole = await client.rerank({ query: 'q', documents: ['a'] })
    const missing = { id: 'failed', query: 'q', documents: { corpus: 'none', ids: ['a'] } }
    await expect(client.rerank(missing)).rejects.toMatchObject({ code: 'unknown_corpus' })
    const kept = await client.rerank({ query: 'kept', documents: ['a'] })
    const about = async (id: string) => (await stage().keys()).filter((key) => key.includes(id))
    // BullMQ moves a job after its request is answered.
    await until(
      'it counts as failed',
      async () => (await stage().redis.exists(stage().queueKey('interactive', 'failed'))) === 1,
    )
    expect(await client.forget([bulk.id, whole.id, 'failed', 'never heard of'])).toBe(3)
    expect(await client.forget([bulk.id, whole.id, 'failed', 'never heard of'])).toBe(0)
    for (const id of [bulk.id, whole.id, 'failed']) {
      expect(await about(id)).toEqual([])
      await expect(client.status(id)).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(await client.result(kept.id)).toEqual(kept)
  })

  it('leaves a request that is not answered to its end', async () => {
    const client = stage().client()
    const id = await client.submit({ query: 'q', documents: DOCUMENTS, priority: 500 })
    expect(await client.forget([id])).toBe(0)
    await stage().worker()
    expect((await client.result(id)).results).toHaveLength(DOCUMENTS.length)
  })
})

describe('rerankAll', () => {
  it('answers every request once, bad ones with their error', async () => {
    await stage().worker()
    const client = stage().client()
    const requests = Array.from({ length: 60 }, (_, i) => ({
      id: `r${i}`,
      query: i === 7 ? '' : `query ${i}`,
      documents: DOCUMENTS,
    }))
    const seen = new Map<string, string>()
    for await (const { id, result, error, position } of client.rerankAll(requests, { window: 10 })) {
      expect(requests[position]?.id).toBe(id)
      seen.set(id, result ? 'done' : error.code)
    }
    expect(seen.size).toBe(60)
    expect([...seen].filter(([, outcome]) => outcome !== 'done')).toEqual([['r7', 'invalid_request']])
  })

  it('waits for room in a full queue instead of failing', async () => {
    const client = stage().client({ maxQueuedJobs: 1 })
    await client.submit({ query: 'q', documents: ['in the way'] })
    const all = (async () => {
      const outcomes: RerankOutcome[] = []
      for await (const outcome of client.rerankAll([{ query: 'q', documents: ['a'] }])) outcomes.push(outcome)
      return outcomes
    })()
    await stage().worker()
    expect((await all).map(({ error }) => error)).toEqual([undefined])
  })
})
