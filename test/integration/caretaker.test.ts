/** What others left behind: who looks after it finds it, and ends it or gives it back. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { Worker } from 'bullmq'
import { describe, expect, it } from 'vitest'
import { Corpora } from '../../shared/corpus/corpora.js'
import { plainPool } from '../../shared/protocol/pool.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { kill } from './own-redis.js'
import { caretakerOf, documents, endsOf, lifeOf, pacedWorker } from './request-stage.js'
import { type Stage, TINY_MODEL, until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const request = (id: string, count = 3): RerankInput => ({ id, query: id, documents: documents(id, count) })

function producer(s: Stage, file: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const { redis, prefix, model } = s.options()
  const child = fork(resolve(`dist/test/integration/${file}.js`), args, {
    env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix, RANKMILL_MODEL: model, ...env },
  })
  s.onEnd(() => kill(child))
  return child
}

/** A process that has noted a request, and was killed before it queued a job. */
async function diesAfterNote(s: Stage, how: 'submit' | 'rerank', input: RerankInput): Promise<void> {
  const child = producer(s, 'unfinished-submission', [how, JSON.stringify(input)])
  await once(child, 'message')
  await kill(child)
}

describe('a producer that was killed between its note and its jobs', () => {
  it('leaves a request that goes on when it is submitted again', async () => {
    await diesAfterNote(stage(), 'submit', request('r', 600))
    const client = stage().client()
    expect((await client.status('r')).state).toBe('waiting')
    await client.submit(request('r', 600))
    await stage().worker()
    expect((await client.result('r')).results).toHaveLength(600)
    expect(await endsOf(stage())).toEqual({ completed: 1 })
  })

  it('leaves a request that ends as lost, and is found once', async () => {
    const { caretaker, reconciled } = await caretakerOf(stage())
    await diesAfterNote(stage(), 'submit', request('r', 600))
    const client = stage().client()
    const outcome = expect(client.result('r')).rejects.toMatchObject({ code: 'request_lost' })
    await until('it was looked after', async () => caretaker.look().then(() => reconciled.length > 0))
    await outcome
    await caretaker.look()
    expect(reconciled).toEqual(['r'])
    expect(await stage().redis.exists(lifeOf(stage()).keys.load)).toBe(0)
  })

  it('does not keep those waiting who share its request', async () => {
    const { caretaker } = await caretakerOf(stage())
    await stage().worker()
    const shared = { query: 'q', documents: ['a', 'b'] }
    await diesAfterNote(stage(), 'rerank', shared)
    expect((await stage().client().rerank(shared)).results).toHaveLength(2)
    await caretaker.look()
    expect(await endsOf(stage())).toEqual({ completed: 1 })
  })
})

it('a request whose job is gone from Redis ends as lost; one that is queued and not said to be stays', async () => {
  const { caretaker, reconciled } = await caretakerOf(stage())
  const { keys, life } = lifeOf(stage())
  const client = stage().client({ unservedMs: 1000, maxJobPairs: 2 })
  for (const id of ['stays', 'goes']) await client.submit(request(id, 4))
  await until('both are queued', async () => (await life.read('goes'))!.queued && (await life.read('stays'))!.queued)
  await stage().redis.hdel(keys.request('stays'), 'queued')
  await stage().redis.del(...(await stage().keys('*:goes.*.1')))
  await until('one was found', async () => caretaker.look().then(() => reconciled.length > 0))
  await until('the other is known to be queued', async () =>
    caretaker.look().then(async () => (await life.read('stays'))!.queued),
  )
  expect(reconciled).toEqual(['goes'])
  await expect(client.result('goes')).rejects.toMatchObject({ code: 'request_lost' })
  await stage().worker()
  expect((await client.result('stays')).results).toHaveLength(4)
})

it('jobs that are in none of BullMQ’s lists any more are back in the queue', async () => {
  const { caretaker, reconciled } = await caretakerOf(stage())
  const client = stage().client({ maxJobPairs: 2, unservedMs: 1000 })
  await client.submit(request('split', 5))
  await client.submit({ ...request('plain', 2), priority: 3 })
  await client.submit({ ...request('there', 2), priority: 500 })
  await caretaker.look()
  expect(reconciled).toEqual([])
  for (const list of ['wait', 'prioritized', 'marker']) await stage().redis.del(stage().queueKey('interactive', list))
  await until('both are found', async () => caretaker.look().then(() => reconciled.length >= 2))
  expect(reconciled.sort()).toEqual(['plain', 'split'])
  expect(await stage().queued('interactive')).toBe(4)
  await caretaker.look()
  expect(reconciled).toHaveLength(2)
  await stage().worker()
  expect((await client.result('split')).results).toHaveLength(5)
  for (const id of ['plain', 'there']) expect((await client.result(id)).results).toHaveLength(2)
  expect(await endsOf(stage())).toEqual({ completed: 3 })
})

it.each([
  ['ahead', 3_600_000],
  ['behind', -3_600_000],
])('a job that was delayed by a clock that is %s waits no longer than others', async (_, offMs) => {
  const { caretaker, reconciled } = await caretakerOf(stage())
  const client = stage().client({ unservedMs: 1000 })
  await client.submit(request('r'))
  const connection = stage().redis.duplicate({ maxRetriesPerRequest: null })
  stage().onEnd(() => connection.disconnect())
  const taker = new Worker(`rerank@${plainPool(TINY_MODEL)}`, null, {
    connection,
    prefix: stage().prefix,
    autorun: false,
  })
  const job = await taker.getNextJob('token', { block: false })
  await job?.moveToDelayed(Date.now() + offMs, 'token')
  await taker.close()
  await until('it is found', async () => caretaker.look().then(() => reconciled.length > 0))
  expect(await stage().queued('interactive')).toBe(1)
  await stage().worker()
  expect((await client.result('r')).results).toHaveLength(3)
})

it('a death that two see at once counts once', async () => {
  const { life } = lifeOf(stage())
  await stage().client().submit(request('r'))
  const { generation } = (await life.read('r'))!
  const held = { requestId: 'r', generation, part: 0, queue: 'q', jobId: 'j' }
  const seen = await Promise.all(['a', 'a', 'b', 'b', 'b'].map((token) => life.lose({ ...held, token })))
  expect(seen).toEqual([1, 1, 2, 2, 2])
})

it('one request that makes no sense keeps none of the others from being looked after', async () => {
  const { caretaker, reconciled } = await caretakerOf(stage())
  const { keys } = lifeOf(stage())
  const { redis } = stage()
  await redis.zadd(keys.open, 1, 'odd')
  await redis.lpush(keys.request('odd'), 'no note')
  await diesAfterNote(stage(), 'submit', request('r'))
  await until('the other was looked after', async () => caretaker.look().then(() => reconciled.length > 0))
  expect(reconciled).toEqual(['r'])
})

it('requests that nobody did while they were remembered free what was promised to them', async () => {
  const { caretaker } = await caretakerOf(stage())
  const { keys } = lifeOf(stage())
  const client = stage().client({ requestTtlMs: 1000, unservedMs: 1000, maxQueuedJobs: 3 })
  for (const id of ['a', 'b', 'c']) await client.submit(request(id))
  await expect(client.submit(request('d'))).rejects.toMatchObject({ code: 'overloaded' })
  await until('they are forgotten', async () => (await stage().keys('request:*')).length === 0)
  await until('so is what was promised', async () =>
    caretaker.look().then(async () => (await stage().redis.exists(keys.load)) === 0),
  )
  await client.submit(request('d'))
})

it('pools that nobody serves and nobody asks for any more are forgotten', async () => {
  const { caretaker } = await caretakerOf(stage())
  const { keys } = lifeOf(stage())
  const client = stage().client()
  for (const model of ['one', 'two', 'three']) await client.submit({ ...request(model), model })
  for (const id of ['one', 'two']) await client.cancel(id)
  await until('those without jobs are gone', async () =>
    caretaker.look().then(async () => (await stage().redis.hlen(keys.pools)) === 1),
  )
  expect(await stage().redis.hkeys(keys.pools)).toEqual(['three'])
  expect((await stage().keys('*@one:*')).filter((key) => !key.includes('failed'))).toEqual([])
  expect(await client.status('three')).toMatchObject({ state: 'waiting', waitingFor: 'no worker serves three' })
})

describe('the version of a corpus that a split request reads', () => {
  const ids = Array.from({ length: 4 }, (_, i) => `p${i}`)
  const passages = (text: string) => ids.map((id) => ({ id, text: `${text} ${id}` }))
  const pins = async () => {
    const { keys } = lifeOf(stage())
    const manifest = JSON.parse((await stage().redis.get(keys.corpusManifest('c'))) ?? '{}')
    return Object.values(manifest.pins ?? {}) as { expiresAt: number }[]
  }

  it('is pinned from its first job to its answer, whatever becomes of the corpus', async () => {
    const client = stage().client({ maxJobPairs: 2 })
    await client.putCorpus('c', passages('old'))
    await client.submit({ id: 'r', query: 'q', documents: { corpus: 'c', ids }, returnDocuments: true })
    expect(await pins()).toHaveLength(1)
    await client.putCorpus('c', passages('new'))
    await stage().worker()
    const { results } = await client.result('r')
    expect(results.map(({ document }) => document?.text.slice(0, 3))).toEqual(['old', 'old', 'old', 'old'])
    await until('the pin is gone', async () => (await pins()).length === 0)
  })

  it.each(['cancelled', 'past its deadline'])('is let go soon after it was %s', async (how) => {
    const { caretaker } = await caretakerOf(stage())
    const client = stage().client({ maxJobPairs: 2, resultTtlMs: 60_000, unservedMs: 1000 })
    await client.putCorpus('c', passages('old'))
    const isLate = how === 'past its deadline'
    const split = { id: 'r', query: 'q', documents: { corpus: 'c', ids } }
    await client.submit(isLate ? { ...split, deadlineMs: 1 } : split)
    if (!isLate) await client.cancel('r')
    await until('the pin ends with the answer', async () => {
      await caretaker.look()
      return (await pins()).every(({ expiresAt }) => expiresAt <= Date.now() + 60_000)
    })
    expect(await client.status('r')).toMatchObject({ state: isLate ? 'failed' : 'cancelled' })
    await new Corpora(stage().redis, lifeOf(stage()).keys).release('c', 'request-r')
  })
})

describe('a worker', () => {
  const flags = ['--lock-ms', '600000', '--score-cache-ttl-ms', '0', '--max-stalled', '1']
  const long = (id: string): RerankInput => ({
    id,
    query: id,
    documents: Array.from({ length: 20_000 }, (_, i) => `${id} ${i} ${'words '.repeat(60)}`),
  })

  it('that is killed has its jobs back in the queue within seconds, however long their lock; a job that kills ends', async () => {
    const client = stage().client({ maxJobPairs: 50_000 })
    const first = workerProcess(stage(), ...flags)
    await ready(first)
    const second = workerProcess(stage(), ...flags)
    await ready(second)
    await client.submit(long('deadly'))
    const isHeldBy = async (index: number) => {
      const held = await stage().keys('held:*')
      return (await client.workers())[index] !== undefined && held.length > 0
    }
    await until('it runs', async () => (await client.status('deadly')).state === 'running' && (await isHeldBy(0)))
    const holderOf = async () => {
      const [key = ''] = await stage().keys('held:*')
      return (await client.workers()).find(({ id }) => key.endsWith(id))
    }
    const holder = await holderOf()
    const [dead, other] = holder?.pid === first.pid ? [first, second] : [second, first]
    await kill(dead)
    await until('the other has it', async () => (await holderOf())?.pid === other.pid, 60_000)
    await ready(workerProcess(stage(), ...flags))
    await kill(other)
    // The second of its workers to die.
    await expect(client.result('deadly')).rejects.toMatchObject({ code: 'worker_lost' })
    expect(await endsOf(stage())).toEqual({ worker_lost: 1 })
  })

  it('that sleeps while others take its jobs does no harm when it wakes', async () => {
    const client = stage().client({ maxJobPairs: 100 })
    const sleeper = workerProcess(stage(), ...flags)
    await ready(sleeper)
    const requests = Array.from({ length: 6 }, (_, i) => ({ ...long(`r${i}`), documents: documents(`r${i}`, 500) }))
    for (const each of requests) await client.submit(each)
    await until('some run', async () => (await stage().keys('held:*')).length > 0)
    sleeper.kill('SIGSTOP')
    await ready(workerProcess(stage(), ...flags))
    const results = await Promise.all(requests.map(({ id = '' }) => client.result(id)))
    for (const { results: rows } of results) expect(new Set(rows.map(({ index }) => index)).size).toBe(500)
    sleeper.kill('SIGCONT')
    await until('it is back', async () => (await client.workers()).length === 2)
    expect(await endsOf(stage())).toEqual({ completed: 6 })
    for (const [i, { id = '' }] of requests.entries()) expect(await client.result(id)).toEqual(results[i])
    await client.rerank(request('after'))
  })
})

const FAKETIME = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib']
  .map((folder) => `${folder}/faketime/libfaketime.so.1`)
  .find((file) => existsSync(file))

it.skipIf(!FAKETIME).each(['-1h', '+1h'])(
  'a producer whose clock is %s off has its deadline by Redis’ clock',
  async (off) => {
    const { pace } = await pacedWorker(stage())
    pace.release()
    const env = {
      LD_PRELOAD: FAKETIME ?? '',
      FAKETIME: off,
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      FAKETIME_DONT_RESET: '1',
    }
    const child = producer(stage(), 'skewed-client', [JSON.stringify({ ...request('r'), deadlineMs: 5000 })], env)
    const [outcome] = await once(child, 'message')
    expect(outcome).toMatchObject({ results: 3 })
    expect(Math.abs(outcome.clock - Date.now())).toBeGreaterThan(3_000_000)
  },
)
