/** Redis as it should not be: each fault has its own clear error, in the client and in the worker. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import { checkServer } from '../../shared/redis/connection.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import { freePort, kill, useOwnRedis } from './own-redis.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const server = useOwnRedis()

const request = { query: 'q', documents: ['a'] }

async function both(url: string): Promise<unknown[]> {
  const client = stage().client({ redis: url })
  const options = stage().options({ redis: url })
  const caught = (promise: Promise<unknown>) =>
    promise.then(
      () => undefined,
      (error: unknown) => error,
    )
  return [await caught(client.submit(request)), await caught(RerankWorker.start(options, modelSource(options)))]
}

describe('Redis', () => {
  it('that is not there', async () => {
    for (const error of await both(`redis://127.0.0.1:${await freePort()}`)) {
      expect(error).toMatchObject({
        code: 'redis_unavailable',
        retryable: true,
        message: expect.stringContaining('ECONNREFUSED'),
      })
    }
  })

  it('with a password that is wrong or missing', async () => {
    const { port } = await server(['--requirepass', 'right'])
    for (const url of [`redis://:wrong@127.0.0.1:${port}`, `redis://127.0.0.1:${port}`]) {
      for (const error of await both(url)) {
        expect(error).toMatchObject({
          code: 'redis_denied',
          retryable: false,
          message: expect.stringMatching(/refused the password|wants a password/),
        })
        expect((error as Error).message).not.toContain('wrong@')
      }
    }
    const client = stage().client({ redis: `redis://:right@127.0.0.1:${port}` })
    await expect(client.submit(request)).resolves.toBeTypeOf('string')
  })

  it('that may evict queued jobs', async () => {
    const { url } = await server(['--maxmemory-policy', 'allkeys-lru'])
    for (const error of await both(url)) {
      expect(error).toMatchObject({
        code: 'redis_misconfigured',
        message: expect.stringContaining('maxmemory-policy allkeys-lru'),
      })
    }
  })

  it('that is too old', () => {
    expect(() => checkServer('redis_version:5.0.14\r\nmaxmemory_policy:noeviction\r\n')).toThrow(
      /Redis 5\.0\.14 is too old: at least 6\.2\.0/,
    )
    expect(() => checkServer('redis_version:6.2.0\r\nmaxmemory_policy:noeviction\r\n')).not.toThrow()
    expect(() => checkServer('redis_version:10.0.0\r\n')).not.toThrow()
  })

  it('at an address that is none', async () => {
    expect(() => new RerankClient({ redis: '' })).toThrow(/--redis/)
    for (const url of ['localhost:6379', 'http://localhost']) {
      await expect(stage().client({ redis: url }).submit(request)).rejects.toMatchObject({
        code: 'invalid_configuration',
      })
    }
  })

  it('that goes away and comes back: jobs go on, callers are told meanwhile', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rankmill-redis-'))
    const durable = ['--dir', folder, '--appendonly', 'yes', '--appendfsync', 'always']
    const { port, url, process: first } = await server(durable)
    const client = stage().client({ redis: url })
    const id = await client.submit(request)
    const waiting = client.result(id)
    await kill(first)
    await expect(client.submit(request)).rejects.toMatchObject({ code: 'redis_unavailable' })
    await server(durable, port)
    const options = stage().options({ redis: url })
    const worker = await RerankWorker.start(options, modelSource(options))
    stage().onEnd(() => worker.close(true))
    expect((await waiting).results).toHaveLength(1)
    await until('the client is back', async () =>
      client.submit(request).then(
        () => true,
        () => false,
      ),
    )
    await rm(folder, { recursive: true })
  })

  it('that restarts under a worker: the worker takes jobs again', async () => {
    const { port, url, process: first } = await server()
    const options = stage().options({ redis: url })
    const worker = await RerankWorker.start(options, modelSource(options))
    stage().onEnd(() => worker.close(true))
    expect((await stage().client({ redis: url }).rerank(request)).results).toHaveLength(1)
    await kill(first)
    await server([], port)
    expect((await stage().client({ redis: url }).rerank(request)).results).toHaveLength(1)
  })
})
