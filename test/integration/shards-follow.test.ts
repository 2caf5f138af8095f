/** A fleet that comes to have another number of shards under clients, servers and workers that named none. */
import type { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { keysOf } from '../../shared/protocol/keys.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { shardOf, shardPrefixes } from '../../shared/protocol/shards.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { WorkerRegistry } from '../../shared/redis/worker-registry.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import { Api } from './api.js'
import { documents } from './request-stage.js'
import { until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const SHARDS = 3
const three = { shards: SHARDS }
const request = (id: string): RerankInput => ({ id, query: id, documents: documents(id, 3) })
const perShard = [0, 1, 2].map((shard) => {
  return Array.from({ length: 100 }, (_, i) => `r-${i}`).find((id) => shardOf(id, SHARDS) === shard) ?? ''
})
const fleetKey = (shard: number) => keysOf(shardPrefixes(stage().prefix, SHARDS)[shard] ?? '', 'rerank').fleet
const said = () => stage().redis.hget(fleetKey(0), 'shards')

it('a client goes on in the shards that a worker makes of a fleet that was new', async () => {
  const [client, asks] = [stage().client(), stage().client()]
  expect(await client.workers()).toEqual([])
  expect(await asks.workers()).toEqual([])
  await stage().worker(three)
  for (const id of perShard) await client.submit(request(id))
  // What it asks for was never in the shard that it knew.
  for (const id of perShard) expect((await asks.status(id)).id).toBe(id)
  for (const id of perShard) expect((await stage().client(three).result(id)).results).toHaveLength(3)
  expect((await client.rerank({ query: 'no id', documents: ['a', 'b'] })).results).toHaveLength(2)
  expect(await client.workers()).toHaveLength(1)
})

it('a corpus is put where requests look for it, also by who came before there were several shards', async () => {
  const client = stage().client()
  await client.workers()
  await stage().worker(three)
  const names = Array.from({ length: 6 }, (_, i) => `corpus-${i}`)
  for (const name of names) await client.putCorpus(name, [{ id: 'a', text: 'one' }])
  for (const corpus of names) {
    const result = await client.rerank({ query: 'one', documents: { corpus, ids: ['a'] } })
    expect(result.results).toHaveLength(1)
  }
})

it('an API server that was there before its first worker serves all of its shards', async () => {
  const api = await Api.start(stage())
  await stage().worker(three)
  for (const id of perShard) {
    const answer = await api.post('/v1/rerank', request(id))
    expect([answer.status, answer.body.results?.length]).toEqual([200, 3])
  }
  const line = JSON.stringify({ id: 'a', text: 'one' })
  for (const name of ['a', 'b', 'c', 'd']) {
    await api.call('PUT', `/v1/corpora/${name}`, line, { 'content-type': 'application/x-ndjson' })
    expect((await api.get(`/v1/corpora/${name}`)).body).toMatchObject({ name, passages: 1 })
    const documents = { corpus: name, ids: ['a'] }
    expect((await api.post('/v1/rerank', { query: 'one', documents })).status).toBe(200)
  }
  await until('its metrics are of all shards', async () => (await api.get('/metrics')).body.includes('shard="2"'))
})

it('who opens a fleet while a worker changes it takes what it has become, and says nothing else', async () => {
  const before = await Shards.open(stage().options(three), connectProducer, 'worker')
  before.close()
  for (const named of [0, SHARDS]) {
    let changed = false
    // Between the look at the fleet's size and the last connection.
    const connect = async (target: Parameters<typeof connectProducer>[0]): Promise<Redis> => {
      if (target.prefix !== stage().prefix && !changed) {
        changed = true
        const worker = await Shards.open(stage().options({ shards: 2 }), connectProducer, 'worker')
        worker.close()
      }
      return connectProducer(target)
    }
    const opening = Shards.open(stage().options({ shards: named }), connect, 'producer')
    if (named === 0) {
      const shards = await opening
      expect(shards.all).toHaveLength(2)
      shards.close()
    } else await expect(opening).rejects.toMatchObject({ code: 'invalid_configuration', message: /has 2/ })
    expect([await said(), await stage().redis.hget(fleetKey(1), 'shards')]).toEqual(['2', '2'])
    const again = await Shards.open(stage().options(three), connectProducer, 'worker')
    again.close()
  }
})

it('of two workers that change a fleet at once one is refused', async () => {
  const two = await Shards.open(stage().options({ shards: 2 }), connectProducer, 'worker')
  two.close()
  const [, second] = shardPrefixes(stage().prefix, 2)
  let looked = 0
  let go: () => void = () => undefined
  const bothLooked = new Promise<void>((resolve) => {
    go = resolve
  })
  const connect = async (target: Parameters<typeof connectProducer>[0]): Promise<Redis> => {
    if (target.prefix === second && ++looked === 2) go()
    if (target.prefix === second) await bothLooked
    return connectProducer(target)
  }
  const opened = await Promise.allSettled(
    [3, 4].map((shards) => Shards.open(stage().options({ shards }), connect, 'worker')),
  )
  const won = opened.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  for (const shards of won) shards.close()
  expect(won).toHaveLength(1)
  expect(await said()).toBe(String(won[0]?.all.length))
  const [lost] = opened.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
  expect(lost).toMatchObject({ code: 'invalid_configuration', message: /another worker has just changed it/ })
})

it('Redis forgets everything: who was there and who comes then are answered, and find one another', async () => {
  await stage().worker(three)
  const before = stage().client()
  for (const id of perShard) await before.rerank(request(id))
  const prefixes = `${stage().prefix.slice(0, -1).replace('{', '\\{')}*`
  await stage().redis.unlink(await stage().redis.keys(prefixes))
  const after = stage().client()
  const clients = [before, after]
  const asked = clients.flatMap((client, i) => {
    return perShard.map((id) => client.rerank({ ...request(`${id}-${i}`), query: 'new' }))
  })
  for (const result of await Promise.all(asked)) expect(result.results).toHaveLength(3)
  await until('the worker has said its number again', async () => (await said()) === String(SHARDS))
  for (const [i, client] of clients.entries()) {
    for (const id of perShard) await client.submit({ ...request(`${id}-later-${i}`) })
    for (const id of perShard) {
      expect((await clients[1 - i]!.result(`${id}-later-${i}`)).results).toHaveLength(3)
    }
  }
})

it('a mark that somebody left in a shard, of another number, keeps nobody out', async () => {
  await stage().worker(three)
  const client = stage().client()
  for (const shard of [1, 2]) await stage().redis.hset(fleetKey(shard), 'shards', '7')
  for (const id of perShard) expect((await client.rerank(request(id))).results).toHaveLength(3)
})

it('a worker that slept while the fleet was changed serves it no more, and says so', async () => {
  const options = stage().options()
  const told: number[] = []
  const parts = { onOtherSize: (has: number) => void told.push(has) }
  const worker = await RerankWorker.start(options, modelSource(options), parts)
  stage().onEnd(() => worker.close(true))
  const other = await stage().worker()
  await stage().redis.hset(fleetKey(0), 'shards', String(SHARDS))
  await until('it is told', () => told.length > 0)
  expect(told).toEqual([SHARDS])
  await until('one that is told nothing has stopped', async () => {
    return !(await stage().client(three).workers()).some(({ id }) => id === other.id)
  })
})

it('a worker that slept says its own number no more, where the fleet is one shard now', async () => {
  const three_ = await Shards.open(stage().options(three), connectProducer, 'worker')
  three_.close()
  const one = await Shards.open(stage().options({ shards: 1 }), connectProducer, 'worker')
  stage().onEnd(() => one.close())
  const registry = new WorkerRegistry(one.first.redis, one.first.keys)
  const worker = await stage().worker({ shards: 1 })
  const [info] = await registry.workers()
  const beat = { model: '', follows: false, shards: SHARDS }
  expect((await registry.heartbeat({ ...info!, id: 'slept' }, beat)).shards).toBe(1)
  expect(await said()).toBe('1')
  expect(worker.id).toBe(info?.id)
})

it('a worker process begins anew with the shards that the fleet has, and ends where it was told another number', async () => {
  const [follows, named] = [workerProcess(stage()), workerProcess(stage(), '--shards', '1')]
  await Promise.all([ready(follows), ready(named)])
  const ended = new Promise((resolve) => named.once('exit', resolve))
  await stage().redis.hset(fleetKey(0), 'shards', String(SHARDS))
  const again = ready(follows)
  expect(await ended).toBe(2)
  await again
  const client = stage().client()
  for (const id of perShard) expect((await client.rerank(request(id))).results).toHaveLength(3)
  expect(await client.workers()).toHaveLength(1)
})
