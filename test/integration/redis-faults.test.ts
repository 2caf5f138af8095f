/** Redis as it should not be: each fault has its own clear error, in the client and in the worker. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterEach, describe, expect, it } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import { checkServer } from '../../shared/redis/connection.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const servers: ChildProcess[] = []

afterEach(async () => {
  for (const server of servers.splice(0)) {
    if (server.exitCode !== null || server.signalCode !== null) continue
    server.kill('SIGKILL')
    await once(server, 'exit')
  }
})

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address ? address.port : 0
}

/** A server of the test's own, to be broken; skipped where there is no redis-server to run. */
async function server(port: number, ...flags: string[]): Promise<ChildProcess> {
  const child = spawn('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1', ...flags], {
    stdio: 'ignore',
  })
  servers.push(child)
  const probe = new Redis(port, { retryStrategy: () => 20, maxRetriesPerRequest: null })
  probe.on('error', () => undefined)
  await until('the server answers', async () =>
    probe.ping().then(
      () => true,
      (error) => /NOAUTH/.test(error.message),
    ),
  )
  probe.disconnect()
  return child
}

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
    const port = await freePort()
    await server(port, '--requirepass', 'right')
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
    const port = await freePort()
    await server(port, '--maxmemory-policy', 'allkeys-lru')
    for (const error of await both(`redis://127.0.0.1:${port}`)) {
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
    const port = await freePort()
    const url = `redis://127.0.0.1:${port}`
    const folder = await mkdtemp(join(tmpdir(), 'rankmill-redis-'))
    const durable = ['--dir', folder, '--appendonly', 'yes', '--appendfsync', 'always']
    const first = await server(port, ...durable)
    const client = stage().client({ redis: url })
    const id = await client.submit(request)
    const waiting = client.result(id)
    first.kill('SIGKILL')
    await once(first, 'exit')
    await expect(client.submit(request)).rejects.toMatchObject({ code: 'redis_unavailable' })
    await server(port, ...durable)
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
    const port = await freePort()
    const url = `redis://127.0.0.1:${port}`
    const first = await server(port)
    const options = stage().options({ redis: url })
    const worker = await RerankWorker.start(options, modelSource(options))
    stage().onEnd(() => worker.close(true))
    expect((await stage().client({ redis: url }).rerank(request)).results).toHaveLength(1)
    first.kill('SIGKILL')
    await once(first, 'exit')
    await server(port)
    expect((await stage().client({ redis: url }).rerank(request)).results).toHaveLength(1)
  })
})
