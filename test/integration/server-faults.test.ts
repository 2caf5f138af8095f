/** The API while something is away or going: errors that say so, and no caller dropped. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { Api } from './api.js'
import { pacedWorker } from './request-stage.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const REQUEST = { query: 'q', documents: ['a', 'b'] }

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address ? address.port : 0
}

/** A Redis of the test's own, to be stopped and started. */
async function startRedis(port: number): Promise<() => Promise<void>> {
  const child = spawn('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1'], {
    stdio: 'ignore',
  })
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  stage().onEnd(stop)
  const probe = new Redis(port, { retryStrategy: () => 20, maxRetriesPerRequest: null })
  probe.on('error', () => undefined)
  await probe.ping()
  probe.disconnect()
  return stop
}

it('says 503 on every route while Redis is away, and goes on when it is back', async () => {
  const port = await freePort()
  const stop = await startRedis(port)
  const api = await Api.start(stage(), { redis: `redis://127.0.0.1:${port}`, auth: 'open', commandTimeoutMs: 5000 })
  expect((await api.get('/v1/rerank/jobs')).status).toBe(200)
  await stop()
  await until('it is not ready', async () => (await api.get('/readyz')).status === 503)
  for (const [method, path, body] of [
    ['POST', '/v1/rerank', REQUEST],
    ['POST', '/v1/rerank/jobs', REQUEST],
    ['GET', '/v1/rerank/jobs', undefined],
    ['GET', '/v1/files', undefined],
    ['GET', '/v1/batches', undefined],
    ['GET', '/v1/corpora', undefined],
    ['GET', '/v1/status', undefined],
    ['GET', '/v1/webhooks/failed', undefined],
    ['GET', '/queues/api/queues', undefined],
  ] as const) {
    const answer = await api.call(method, path, body)
    expect([path, answer.status, answer.body.error?.code]).toEqual([path, 503, 'redis_unavailable'])
  }
  expect((await api.get('/healthz')).status).toBe(200)
  await startRedis(port)
  await until('it goes on', async () => (await api.get('/v1/rerank/jobs')).status === 200)
})

it('answers who waits, and ends what it knows no more, when Redis comes back empty', async () => {
  const port = await freePort()
  const stop = await startRedis(port)
  const redis = `redis://127.0.0.1:${port}`
  const { pace } = await pacedWorker(stage(), { redis })
  const api = await Api.start(stage(), { redis, auth: 'open', commandTimeoutMs: 1000 })
  const waiting = api.post('/v1/rerank', { ...REQUEST, id: 'sync' })
  const job = (await api.post('/v1/rerank/jobs', { ...REQUEST, query: 'job' })).body
  const awaited = api.get(`/v1/rerank/jobs/${job.id}?wait=30`)
  const events = await fetch(`${api.url}/v1/rerank/jobs/${job.id}/events`)
  const told = events.text()
  await until('it runs', async () => (await api.get(`/v1/rerank/jobs/${job.id}`)).body.status === 'running')
  await stop()
  await until('it is not ready', async () => (await api.get('/readyz')).status === 503)
  await startRedis(port)
  await until('it is ready', async () => (await api.get('/readyz')).status === 200)
  pace.release()
  const { status, body } = await waiting
  expect([status, body.results?.length]).toEqual([200, 2])
  expect((await awaited).status).toBe(404)
  expect(await told).toContain('event: status')
  expect((await api.get(`/v1/rerank/jobs/${job.id}`)).status).toBe(404)
  expect((await api.post('/v1/rerank', REQUEST)).status).toBe(200)
})

it('closes while Redis is away', async () => {
  const port = await freePort()
  const stop = await startRedis(port)
  const api = await Api.start(stage(), { redis: `redis://127.0.0.1:${port}`, auth: 'open' })
  await api.post('/v1/rerank/jobs', REQUEST)
  await stop()
  await until('it is not ready', async () => (await api.get('/readyz')).status === 503)
  await api.server.close()
})

it('answers who waits before it closes, and takes no more', async () => {
  const api = await Api.start(stage())
  const client = stage().client()
  const waiting = api.post('/v1/rerank', { ...REQUEST, id: 'waits' })
  await until('it waits', () =>
    client.status('waits').then(
      () => true,
      () => false,
    ),
  )
  const events = await fetch(`${api.url}/v1/rerank/jobs/waits/events`)
  const closing = api.server.close()
  await stage().worker()
  expect((await waiting).status).toBe(200)
  expect(await events.text()).toContain('id: waiting')
  await closing
  await expect(api.get('/healthz')).rejects.toThrow()
})

it('cuts off who waits longer than it may', async () => {
  const api = await Api.start(stage(), { drainTimeoutMs: 200 })
  const client = stage().client()
  const waiting = api.post('/v1/rerank', { ...REQUEST, id: 'long' }).catch(() => 'cut off')
  await until('it waits', () =>
    client.status('long').then(
      () => true,
      () => false,
    ),
  )
  await api.server.close()
  expect(await waiting).toBe('cut off')
})
