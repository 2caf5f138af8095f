/** Connections that look well and lead nowhere: half-open ones, and those that stay with a demoted primary. */
import { describe, expect, it } from 'vitest'
import { connectWorker, openSubscriber } from '../../shared/redis/connection.js'
import { ConnectionWatch } from '../../shared/redis/connection-watch.js'
import { untilPasses } from '../../shared/redis/until-passes.js'
import { FaultyProxy } from './faulty-proxy.js'
import { useOwnRedis } from './own-redis.js'
import { pacedWorker } from './request-stage.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const request = { query: 'q', documents: ['a', 'b'] }

async function proxied(port: number): Promise<{ proxy: FaultyProxy; url: string }> {
  const proxy = await FaultyProxy.start(port)
  stage().onEnd(() => proxy.close())
  return { proxy, url: `redis://127.0.0.1:${proxy.port}` }
}

/** Those that are there stay silent for ever; new ones work. */
function leaveHalfOpen(proxy: FaultyProxy): void {
  proxy.mode = 'stall'
  proxy.mode = 'pass'
}

describe('a half-open connection', () => {
  it('is given up after two beats, and not answering until its successor does', async () => {
    const { port } = await ownRedis()
    const { proxy, url } = await proxied(port)
    const redis = await connectWorker({ redis: url, prefix: '{test}' })
    stage().onEnd(() => redis.disconnect())
    let silences = 0
    const watch = new ConnectionWatch(redis, { beatMs: 50, onSilent: () => silences++ })
    expect(watch.isAnswering).toBe(true)
    proxy.mode = 'stall'
    await until('it is not answering', () => !watch.isAnswering)
    await until('it was given up', () => silences > 0)
    expect(watch.isAnswering).toBe(false)
    proxy.mode = 'pass'
    await until('it is answering again', () => watch.isAnswering)
    expect(await redis.ping()).toBe('PONG')
  })

  it('is not answering while Redis refuses the beat, and stays', async () => {
    const { url, admin } = await ownRedis()
    const redis = await connectWorker({ redis: url, prefix: '{test}' })
    stage().onEnd(() => redis.disconnect())
    let silences = 0
    const beat = () => redis.set('beat', '1')
    const watch = new ConnectionWatch(redis, { beatMs: 20, beat, onSilent: () => silences++ })
    await admin.config('SET', 'maxmemory', 1)
    await until('it knows', () => watch.fault?.code === 'redis_full')
    expect(watch.isAnswering).toBe(false)
    await admin.config('SET', 'maxmemory', 0)
    await until('it is well', () => watch.isAnswering)
    expect(silences).toBe(0)
  })

  it('is noticed before it was ever ready', async () => {
    const { port } = await ownRedis()
    const { proxy, url } = await proxied(port)
    proxy.mode = 'stall'
    const started = connectWorker({ redis: url, prefix: '{test}' }, 'x', 200)
    await expect(started).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringContaining('silent'),
    })
    proxy.mode = 'pass'
    const redis = await connectWorker({ redis: url, prefix: '{test}' }, 'x', 200)
    stage().onEnd(() => redis.disconnect())
    proxy.mode = 'stall'
    const answer = redis.get('key')
    const before = proxy.accepted
    await until('it has tried to reconnect more than once', () => proxy.accepted > before + 1)
    proxy.mode = 'pass'
    expect(await answer).toBeNull()
  })

  it('of a subscriber is opened again, with its subscriptions', async () => {
    const { port, admin } = await ownRedis()
    const { proxy, url } = await proxied(port)
    const redis = await connectWorker({ redis: url, prefix: '{test}' })
    stage().onEnd(() => redis.disconnect())
    const subscriber = openSubscriber(redis, 'subscriber', 50)
    stage().onEnd(() => subscriber.disconnect())
    let heard = ''
    subscriber.on('message', (_channel: string, message: string) => {
      heard = message
    })
    await subscriber.subscribe('news')
    leaveHalfOpen(proxy)
    await until('it hears again', async () => {
      await admin.publish('news', 'after')
      return heard === 'after'
    })
  })

  it('does not keep a worker from hearing of cancellations', async () => {
    const { port, url: direct, admin } = await ownRedis()
    const { proxy, url } = await proxied(port)
    const { pace } = await pacedWorker(stage(), { redis: url })
    const client = stage().client({ redis: direct })
    await client.submit({ ...request, id: 'r' })
    await until('it runs', () => pace.handed > 0)
    const listeners = async () => [...String(await admin.client('LIST')).matchAll(/id=(\d+).*name=rankmill-listener/g)]
    const [before] = await listeners()
    leaveHalfOpen(proxy)
    await until('it listens anew', async () => (await listeners()).some(([, id]) => id !== before?.[1]))
    await client.cancel('r')
    await until('it is dropped', async () => (await admin.keys('*:held:*')).length === 0)
  })

  it('does not keep a worker or a client from going on, whichever of their connections it is', async () => {
    const { port, url: direct } = await ownRedis()
    const { proxy, url } = await proxied(port)
    await stage().worker({ redis: url })
    const client = stage().client({ redis: url, commandTimeoutMs: 500 })
    await client.rerank(request)
    leaveHalfOpen(proxy)
    const id = await stage()
      .client({ redis: direct })
      .submit({ ...request, query: 'meanwhile' })
    expect((await stage().client({ redis: direct }).result(id)).results).toHaveLength(2)
    const answer = await untilPasses(() => client.rerank({ ...request, query: 'after', id: 'after' }), {
      limitMs: 10_000,
    })
    expect(answer.results).toHaveLength(2)
  })
})

it('a worker and a client follow a failover, away from the primary that became a replica', async () => {
  const first = await ownRedis()
  const second = await ownRedis()
  const { proxy, url } = await proxied(first.port)
  await stage().worker({ redis: url })
  const client = stage().client({ redis: url, commandTimeoutMs: 1000 })
  await client.rerank(request)
  await second.admin.replicaof('127.0.0.1', first.port)
  await until('the replica follows', async () => (await second.admin.dbsize()) > 0)
  proxy.target = second.port
  await second.admin.call('REPLICAOF', 'NO', 'ONE')
  await first.admin.replicaof('127.0.0.1', second.port)
  const after = { ...request, query: 'after', id: 'after' }
  const answer = await untilPasses(() => client.rerank(after), { limitMs: 20_000 })
  expect(answer.results).toHaveLength(2)
  expect(await second.admin.client('LIST')).toContain('name=rankmill-worker')
  const redis = await connectWorker({ redis: url, prefix: '{test}' })
  stage().onEnd(() => redis.disconnect())
  const subscriber = openSubscriber(redis, 'rankmill-news', 50)
  stage().onEnd(() => subscriber.disconnect())
  await subscriber.subscribe('news')
  proxy.target = first.port
  await first.admin.call('REPLICAOF', 'NO', 'ONE')
  await second.admin.replicaof('127.0.0.1', first.port)
  await until('the subscriber follows', async () =>
    String(await first.admin.client('LIST')).includes('name=rankmill-news'),
  )
})
