/** Requests that name no model and come before the first worker of a fleet has said which one is meant. */
import { expect, it } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { encodedModel } from '../../shared/protocol/pool.js'
import { RequestLife } from '../../shared/redis/request-life.js'
import { RerankWorker } from '../../worker/worker.js'
import { Pace, pacedSource } from './paced-source.js'
import { type Stage, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const documents = Array.from({ length: 10 }, (_, i) => `document ${i}`)

function nameless(s: Stage): RerankClient {
  const client = new RerankClient({ ...s.options({ maxJobPairs: 4 }), model: undefined })
  s.onEnd(() => client.close())
  return client
}

it('follow it, whole and split, and leave nothing behind', async () => {
  const client = nameless(stage())
  const ids = [await client.submit({ query: 'q', documents }), await client.submit({ query: 'q', documents: ['a'] })]
  for (const id of ids) expect(await client.status(id)).toMatchObject({ state: 'waiting', needs: 'rankmill-small' })
  const waits = client.rerank({ query: 'r', documents })
  const worker = await stage().worker()
  for (const id of ids) {
    const { model } = await client.result(id)
    expect(model).toBe(worker.scorers.names[0])
    expect((await client.status(id)).needs).toBe(worker.scorers.names[0])
  }
  expect((await waits).results).toHaveLength(documents.length)
  await client.forget([...ids, (await waits).id])
  expect(await stage().keys('rerank*rankmill-small:*.*')).toEqual([])
  expect(await stage().redis.hgetall(`${stage().prefix}:load:rerank`)).toEqual({})
})

it('stay as they are where it is the one that they would have meant anyway', async () => {
  const client = nameless(stage())
  await stage().worker()
  // The fleet's word is kept after its workers are gone.
  expect((await client.rerank({ query: 'q', documents: ['a'] })).results).toHaveLength(1)
})

it('are still their caller’s to give up after they have followed it', async () => {
  const client = nameless(stage())
  const stop = new AbortController()
  const options = { batchPairs: 1, scoreCacheTtlMs: 0 }
  const pace = new Pace()
  const given = client.rerank({ id: 'mine', query: 'q', documents }, { signal: stop.signal }).catch((error) => error)
  await until('it waits', async () => (await client.status('mine').catch(() => undefined))?.state === 'waiting')
  const worker = await RerankWorker.start(stage().options(options), pacedSource(stage().options(options), pace))
  stage().onEnd(() => worker.close(true))
  stage().onEnd(() => pace.release())
  await until('it has followed', async () => (await client.status('mine')).needs === worker.scorers.names[0])
  stop.abort(new Error('enough'))
  expect((await given).message).toBe('enough')
  await until('it is cancelled', async () => (await client.status('mine')).state === 'cancelled')
})

it('follow it also where whoever moved them died before the first job was moved', async () => {
  const client = nameless(stage())
  const id = await client.submit({ query: 'q', documents })
  const keys = keysOf(stage().prefix, 'rerank')
  const life = new RequestLife(stage().redis, keys)
  await until('it is queued', async () => (await life.read(id))?.queued === true)
  // The word of a worker, and the one step of a caretaker that comes before its jobs are moved.
  await stage().redis.hset(keys.fleet, 'model', encodedModel(TINY_MODEL))
  expect((await life.resolve(id, (await life.read(id))!.generation))?.pool).toBe(encodedModel(TINY_MODEL))
  await stage().redis.zadd(keys.open, 0, id)
  await stage().worker()
  expect((await client.result(id)).results).toHaveLength(documents.length)
})
