/** A Redis that forgets some of what it was told: keys, scripts, everything; or that does what it was told and says nothing. */
import { setImmediate as tick } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { RerankInput } from '../../shared/protocol/request.js'
import { FaultyProxy } from './faulty-proxy.js'
import { useOwnRedis } from './own-redis.js'
import { caretakerOf, documents, lifeOf, pacedWorker } from './request-stage.js'
import { type Stage, until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const request = (id: string, count = 4): RerankInput => ({ id, query: id, documents: documents(id, count) })

/** Nothing of unanswered requests, and no job. */
async function expectNothingOpen(s: Stage): Promise<void> {
  const { keys } = lifeOf(s)
  await until('nothing is open', async () => (await s.redis.exists(keys.open, keys.load)) === 0)
  expect(await s.queued('interactive')).toBe(0)
}

it('everything (FLUSHDB): who waits asks again, who comes back later learns that it is lost', async () => {
  const { url, admin } = await ownRedis()
  const client = stage().client({ redis: url })
  const waits = client.rerank({ query: 'q', documents: ['a', 'b', 'c'] })
  await client.submit(request('durable'))
  const comesBack = expect(client.result('durable')).rejects.toMatchObject({ code: 'request_lost', retryable: true })
  await until('both are noted', async () => (await admin.keys('*:request:*')).length === 2)
  await admin.flushdb()
  await comesBack
  await expect(client.status('durable')).rejects.toMatchObject({ code: 'not_found' })
  await stage().worker({ redis: url })
  expect((await waits).results).toHaveLength(3)
  await client.submit(request('durable'))
  expect((await client.result('durable')).results).toHaveLength(4)
})

/** Of what there is while a split request is half scored and another one waits. */
describe('any one key', () => {
  it('costs nobody the answer', async () => {
    const { pace } = await pacedWorker(stage(), { batchPairs: 2, concurrency: 1 })
    const { caretaker } = await caretakerOf(stage())
    const client = stage().client({ maxJobPairs: 2, unservedMs: 1000 })
    pace.release()
    const expected = await client.rerank(request('r', 6))
    await client.forget(['r'])
    const { redis, prefix } = stage()
    const kindOf = (key: string) =>
      key
        .slice(prefix.length)
        .replace(/\d{6,}/g, 'N')
        .replace(/[0-9a-f-]{36}/, 'ID')
    const tried = new Set<string>()
    for (let left = 1; left > 0; ) {
      pace.hold()
      const answer = client.rerank(request('r', 6), { timeoutMs: 60_000 })
      const other = client.rerank({ query: 'other', documents: ['x', 'y'] }, { timeoutMs: 60_000 })
      await until('a part is scored', async () => {
        pace.step()
        return (await redis.hlen(lifeOf(stage()).keys.parts('r'))) > 0
      })
      const keys = (await stage().keys()).filter((key) => !/events|meta|caretaker/.test(key))
      const chosen = keys.find((key) => !tried.has(kindOf(key)))
      left = keys.filter((key) => !tried.has(kindOf(key))).length
      if (chosen) {
        tried.add(kindOf(chosen))
        await redis.del(chosen)
      }
      pace.release()
      const looks = setInterval(() => void caretaker.look().catch(() => undefined), 100)
      const [{ results }, { results: others }] = await Promise.all([answer, other]).finally(() => clearInterval(looks))
      expect(results, chosen).toEqual(expected.results)
      expect(others, chosen).toHaveLength(2)
      await client.forget(['r'])
      await redis.del('-', ...(await stage().keys('same:*')))
    }
    expect(tried.size).toBeGreaterThan(12)
    await expectNothingOpen(stage())
  })

  it('of an answered request: whoever asks for the answer learns that it is lost, and asking again gives it', async () => {
    await stage().worker()
    const client = stage().client()
    const { results } = await client.rerank(request('r'))
    await stage().redis.del(lifeOf(stage()).keys.result('r'))
    expect(await client.status('r')).toMatchObject({ state: 'failed', error: { code: 'request_lost' } })
    await expect(client.result('r')).rejects.toMatchObject({ code: 'request_lost' })
    expect((await client.rerank(request('r'))).results).toEqual(results)
    expect(await client.status('r')).toMatchObject({ state: 'completed' })
  })
})

it('its scripts (SCRIPT FLUSH), under requests of many parts', async () => {
  const { url, admin } = await ownRedis()
  await stage().worker({ redis: url })
  const client = stage().client({ redis: url, maxJobPairs: 2 })
  await client.rerank(request('before', 20))
  for (let round = 0; round < 5; round++) {
    const ids = Array.from({ length: 5 }, (_, i) => `r${round}-${i}`)
    const flushed = admin.script('FLUSH')
    const results = await Promise.all(ids.map((id) => client.rerank(request(id, 20))))
    await flushed
    for (const { results: rows } of results) expect(new Set(rows.map(({ index }) => index)).size).toBe(20)
  }
})

describe('a right that is taken and given back', () => {
  const url = async () => {
    const own = await ownRedis()
    await own.admin.acl('SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all')
    return { ...own, redis: own.url.replace('//', '//app:secret@') }
  }

  it('to listen costs neither the process nor the answer, and events come again', async () => {
    const { redis, admin } = await url()
    const client = stage().client({ redis })
    const answer = client.rerank({ query: 'q', documents: ['a', 'b'] })
    const listeners = async () => Number((await admin.pubsub('NUMSUB', lifeOf(stage()).keys.doneChannel))[1])
    await until('it listens', async () => (await listeners()) === 1)
    const denied = async () => /cmdstat_subscribe:.*rejected_calls=[1-9]/.test(await admin.info('commandstats'))
    await admin.acl('SETUSER', 'app', 'resetchannels')
    await until('it may not listen', denied)
    await admin.acl('SETUSER', 'app', 'allchannels')
    await until('it listens again', async () => (await listeners()) === 1)
    await stage().worker({ redis })
    expect((await answer).results).toHaveLength(2)
  })

  it('to write costs no request that a worker has in hand', async () => {
    const { redis, url: own, admin } = await url()
    const { pace } = await pacedWorker(stage(), { redis })
    const client = stage().client({ redis: own })
    const answers = ['a', 'b'].map((id) => client.rerank(request(id)))
    await until('they are taken', () => pace.handed > 0)
    await admin.acl('SETUSER', 'app', '-set')
    pace.release()
    const refused = async () =>
      Number((await admin.info('errorstats')).match(/errorstat_(NOPERM|ERR):count=(\d+)/)?.[2])
    await until('it was refused', async () => (await refused()) > 0)
    await admin.acl('SETUSER', 'app', '+@all')
    for (const { results } of await Promise.all(answers)) expect(results).toHaveLength(4)
  })
})

it('to answer (the reply to what it did is lost): each request has one answer, and nothing stays', async () => {
  const { url, port } = await ownRedis()
  const proxy = await FaultyProxy.start(port)
  stage().onEnd(() => proxy.close())
  const through = `redis://127.0.0.1:${proxy.port}`
  await stage().worker({ redis: through, lockMs: 2000 })
  const client = stage().client({ redis: through, maxJobPairs: 2, commandTimeoutMs: 2000 })
  const answers: Promise<unknown>[] = []
  for (let i = 0; i < 30; i++) {
    if (i % 3 === 0) proxy.mode = 'deaf'
    answers.push(untilAnswered(() => client.rerank(request(`r${i}`, 5))))
    for (let ticks = 0; ticks < 20 * (i % 5); ticks++) await tick()
    proxy.mode = 'cut'
    proxy.mode = 'pass'
  }
  for (const answer of await Promise.all(answers)) expect(answer).toHaveLength(5)
  const direct = stage().client({ redis: url })
  await until('nothing waits', async () => (await direct.workers()).length === 1)
})

async function untilAnswered(call: () => Promise<{ results: readonly unknown[] }>): Promise<readonly unknown[]> {
  for (;;) {
    try {
      return (await call()).results
    } catch (error) {
      expect(error).toMatchObject({ code: 'redis_unavailable' })
      await tick()
    }
  }
}

it('an aborted call leaves nothing, whenever it is aborted', async () => {
  const client = stage().client({ maxJobPairs: 2 })
  await client.workers()
  const outcomes = new Set<string>()
  for (let ticks = 0; ticks < 60; ticks++) {
    const abort = new AbortController()
    const call = client
      .rerank({ query: `aborted ${ticks}`, documents: ['a', 'b', 'c'] }, { signal: abort.signal })
      .catch((error: Error) => error.message)
    for (let i = 0; i < ticks; i++) await tick()
    abort.abort(new Error('enough'))
    outcomes.add(String(await call))
  }
  expect([...outcomes]).toEqual(['enough'])
  await expectNothingOpen(stage())
})
