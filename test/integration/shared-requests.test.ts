/** Requests of the same content that are under way at the same time share a job, in whatever process they were made. */
import { expect, it } from 'vitest'
import type { RerankClient } from '../../producer/client.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const REQUEST = { query: 'job', documents: ['a queue', 'a retry', 'a lock'] }

async function waiting(): Promise<number> {
  return stage().queued('interactive')
}

/** How many wait for each request that is shared. */
async function waiters(): Promise<number[]> {
  const keys = await stage().keys('same:*')
  return Promise.all(keys.map(async (key) => Number(await stage().redis.hget(key, 'waiters'))))
}

function ask(client: RerankClient, input: Partial<RerankInput> = {}, signal?: AbortSignal) {
  return client.rerank({ ...REQUEST, ...input }, { signal })
}

it('of several clients are one job and have one answer', async () => {
  const clients = [stage().client(), stage().client(), stage().client()]
  const answers = clients.map((client) => ask(client))
  await until('all three wait', async () => (await waiters())[0] === 3)
  expect(await waiting()).toBe(1)
  const worker = await stage().worker()
  const [first, ...others] = await Promise.all(answers)
  for (const other of others) expect(other).toEqual(first)
  expect(first!.usage).toMatchObject({ scored: 3, cached: 0 })
  expect((await worker.metrics.batchPairs.get()).values.find((v) => v.metricName?.endsWith('_sum'))?.value).toBe(3)
  // What was answered is not shared any more: the next one is a request of its own, from the cache.
  expect(await stage().keys('same:*')).toEqual([])
  const later = await ask(clients[0]!)
  expect(later.id).not.toBe(first!.id)
  expect(later.usage).toMatchObject({ scored: 0, cached: 3 })
})

it('stay apart with an id, a deadline, another priority or content, and where shareIdentical is off', async () => {
  const client = stage().client()
  const answers = [
    ask(client),
    ask(client, { id: 'my own' }),
    ask(client, { deadlineMs: 60_000 }),
    ask(client, { priority: 7 }),
    ask(client, { topN: 1 }),
    ask(stage().client({ shareIdentical: false })),
  ]
  await until('all are noted', async () => (await stage().keys('request:*')).length === answers.length)
  await stage().worker()
  const ids = (await Promise.all(answers)).map(({ id }) => id)
  expect(new Set(ids).size).toBe(answers.length)
})

it('go on for the others when one does not want it any more, and end with the last', async () => {
  const [one, two] = [new AbortController(), new AbortController()]
  const clients = [stage().client(), stage().client()]
  const answers = [ask(clients[0]!, {}, one.signal), ask(clients[1]!, {}, two.signal)]
  const outcomes = Promise.allSettled(answers)
  await until('both wait', async () => (await waiters())[0] === 2)
  one.abort(new Error('enough'))
  await until('one is left', async () => (await waiters())[0] === 1)
  expect(await waiting()).toBe(1)
  two.abort(new Error('enough'))
  await until('the job is gone', async () => (await waiting()) === 0)
  expect((await outcomes).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
})

it('are put into the queue again where the first producer could not', async () => {
  const lost = stage().client()
  const first = ask(lost)
  await until('it is queued', async () => (await waiting()) === 1)
  // As if that producer had died between the note and the job.
  const { redis } = stage()
  const [job = ''] = await redis.lrange(stage().queueKey('interactive', 'wait'), 0, -1)
  await redis.del(stage().queueKey('interactive', 'wait'), stage().queueKey('interactive', job))
  for (const key of [...(await stage().keys('request:*')), ...(await stage().keys('same:*'))])
    await redis.hdel(key, 'queued')
  const second = ask(stage().client())
  await until('both wait', async () => (await waiters())[0] === 2)
  await stage().worker()
  expect((await second).results).toEqual((await first).results)
})
