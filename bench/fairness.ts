/**
 * Whether a tenant's flood delays another's first request: one API key submits a hundred thousand requests over HTTP, more
 * than the fleet serves in minutes, and on until it is refused; then another key asks. The engine takes a time that is given.
 *
 *   npm run bench:fairness [-- requests]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { Agent, createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { ApiKeys } from '../server/keys/api-keys.js'
import { ApiServer } from '../server/server.js'
import { envOf, resolveOptions } from '../shared/options.js'
import { queueName } from '../shared/protocol/lanes.js'
import { plainPool } from '../shared/protocol/pool.js'
import { serverKeysOf } from '../shared/protocol/server-keys.js'
import { connectProducer } from '../shared/redis/connection.js'
import { RerankWorker } from '../worker/worker.js'
import { percentile, printConditions } from './conditions.js'
import { CallTimes, timedSource } from './timed-source.js'

const DATA = '.cache/bench-fairness'
/** Slower than requests can be sent, so that they pile up. */
const MS_PER_PAIR = 100
const SHAPE = { sessions: 1, threadsPerSession: 1, batchPairs: 1, batchTokens: 4096 }
const AT_ONCE = 64
const ASKED = 20
const REPORTED = 10_000
/** What a flood may fill of a lane: so many more are sent, and refused. */
const ROOM = 0.9
const [role, count = '100000'] = process.send ? [process.argv[2], '0'] : ['', process.argv[2]]
const queued = Number(count)

if (role === 'server') {
  const server = await ApiServer.start(resolveOptions({ port: 0, dataDir: DATA, webhookAllow: '127.0.0.0/8' }))
  told(server.url, () => server.close())
} else if (role === 'worker') {
  const worker = await RerankWorker.start(resolveOptions({}), timedSource(SHAPE, MS_PER_PAIR, new CallTimes()))
  told('ready', () => worker.close(true))
} else {
  await measure()
}

function told(message: string, close: () => Promise<void>): void {
  process.send?.(message)
  process.on('disconnect', () => void close().then(() => process.exit(0)))
}

async function measure(): Promise<void> {
  rmSync(DATA, { recursive: true, force: true })
  const dataDir = '.rankmill/bench-redis'
  const redis = await findOrStartRedis({ dataDir, log: () => undefined, env: { PATH: process.env['PATH'] } })
  const settings = {
    ...{ redis: redis.url, prefix: `{bench-fairness-${process.pid}}`, model: 'fake', auth: 'required' },
    ...{ scoreCacheTtlMs: 0, metricsPort: 0, logLevel: 'error', maxQueuedJobs: Math.ceil(queued / ROOM) },
  } as const
  const options = resolveOptions(settings)
  const env = Object.entries(settings).map(([name, value]) => [envOf(name), String(value)])
  const start = async (name: string): Promise<[ChildProcess, string]> => {
    const child = fork(fileURLToPath(import.meta.url), [name], { env: { ...process.env, ...Object.fromEntries(env) } })
    return [child, ((await once(child, 'message')) as [string])[0]]
  }
  const [worker] = await start('worker')
  const [server, url] = await start('server')
  const own = await connectProducer(options)
  const keys = new ApiKeys(own, serverKeysOf(options.prefix, options.queue))
  const made = { scopes: ['submit', 'read'] as ('submit' | 'read')[], expiresAt: null, priority: 0 }
  const limits = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0 }
  const keyOf = async (name: string) => (await keys.create({ name, ...made, ...limits })).key
  const [flood, other] = [await keyOf('flood'), await keyOf('other')]
  const agents = {
    [flood]: new Agent({ keepAlive: true, maxSockets: AT_ONCE }),
    [other]: new Agent({ keepAlive: true }),
  }
  printConditions('one key floods, another asks', { queued, 'ms a pair': MS_PER_PAIR, 'at once': AT_ONCE })

  const ask = (key: string, path: string, body: object) => post(agents[key], `${url}${path}`, key, body)
  const asked = async (name: string) => {
    const times: number[] = []
    for (let i = 0; i < ASKED; i++) {
      const startedAt = performance.now()
      const status = await ask(other, '/v1/rerank', { query: `${name} ${i}`, documents: [`a passage, ${i}`] })
      if (status !== 200) throw new Error(`${name}: ${status}`)
      times.push(performance.now() - startedAt)
    }
    const [p50, most] = [percentile(times, 0.5), Math.max(...times)].map((ms) => `${ms.toFixed(0)} ms`)
    console.log(`${name.padEnd(28)} first ${(times[0] ?? 0).toFixed(0)} ms, then p50 ${p50}, most ${most}`)
  }
  const events = await eventReceiver()
  const webhook = async (name: string) => {
    const startedAt = performance.now()
    const job = { query: `webhook ${name}`, documents: ['a passage'], webhook: events.url }
    const came = events.next()
    await ask(other, '/v1/rerank/jobs', job)
    await came
    console.log(`${`${name}: a job’s webhook`.padEnd(28)} ${(performance.now() - startedAt).toFixed(0)} ms`)
  }
  await asked('alone')
  await webhook('alone')

  const statuses: Record<number, number> = {}
  const startedAt = performance.now()
  let left = Math.ceil(queued / ROOM)
  const send = async () => {
    while (left-- > 0) {
      const body = { query: `flood ${left}`, documents: [`flooded passage ${left}`] }
      const status = await ask(flood, '/v1/rerank/jobs', body)
      statuses[status] = (statuses[status] ?? 0) + 1
      if (left > 0 && left % REPORTED === 0) console.log(`  ${left} to be sent`)
    }
  }
  const sending = Promise.all(Array.from({ length: AT_ONCE }, send))
  await asked('as the flood comes in')
  await sending
  const seconds = (performance.now() - startedAt) / 1000
  console.log(`the flood: ${JSON.stringify(statuses)} in ${seconds.toFixed(0)} s`)
  const queue = `${options.prefix}:${queueName(options.queue, plainPool(options.model), 'interactive')}`
  const waiting = (await own.llen(`${queue}:wait`)) + (await own.zcard(`${queue}:prioritized`))
  console.log(`jobs that wait: ${waiting}`)
  await asked('with all of it queued')
  await webhook('with all of it queued')
  for (const agent of Object.values(agents)) agent.destroy()
  for (const child of [server, worker]) {
    child.disconnect()
    await once(child, 'exit')
  }
  events.close()
  own.disconnect()
  await redis.stop()
}

function post(agent: Agent | undefined, url: string, key: string, body: object): Promise<number> {
  const text = JSON.stringify(body)
  const headers = {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  }
  return new Promise((resolve, reject) => {
    const asked = httpRequest(url, { method: 'POST', agent, headers }, (response) => {
      response.resume()
      response.on('end', () => resolve(response.statusCode ?? 0))
    })
    asked.on('error', reject)
    asked.end(text)
  })
}

async function eventReceiver() {
  let tell: () => void = () => undefined
  const server = createServer((request, response) => {
    request.resume()
    response.writeHead(204).end()
    tell()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const next = () =>
    new Promise<void>((resolve) => {
      tell = resolve
    })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, next, close: () => server.close() }
}
