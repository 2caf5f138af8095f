/**
 * An API server at about half of what it can do: each caller rests as long as its answer took. Every dialect, compressed
 * bodies, many documents, asynchronous jobs, event streams, webhooks, files and batches, corpora, callers that hang up and
 * requests that are wrong. Prints the server's memory and descriptors over time, and says whether they are flat.
 *
 *   npm run bench:serve-soak [-- minutes]
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { ApiServer } from '../server/server.js'
import { resolveOptions } from '../shared/options.js'
import { seededRandom } from '../shared/random.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'
import { columnsOf, HELD_HEADER, type Held, held, printColumns, printGrowth } from './growth.js'

const CALLERS = 8
const LOOKS = 30
const BATCH_LINES = 200
const KEPT_MS = 60_000
/** For the last webhooks. */
const TOLD_MS = 30_000
const TEXT = 'The job that lost its worker is given to another one, and nobody waits for it. '
const DATA = '.cache/bench-serve-soak'
const settings = { model: 'm=test/fixtures/models/one-logit', prefix: '{bench-serve-soak}', logLevel: 'error' } as const
/** What is kept for a time is kept for less than a third of the run, or memory grows as it should. */
const kept = { resultTtlMs: KEPT_MS, requestTtlMs: KEPT_MS, fileTtlMs: KEPT_MS, scoreCacheTtlMs: KEPT_MS }

/** What callers do, one after another. */
const often = [sync, sync, tei, sync, hangsUp, sync, job, compressed, sync, events, wrong]
const KINDS = [...Array.from({ length: 10 }, () => often).flat(), looks, batch]

const role = process.argv[2]
if (process.send && role === 'server') {
  const api = { port: 0, dataDir: DATA, webhookAllow: '127.0.0.0/8' }
  const server = await ApiServer.start(resolveOptions({ ...settings, ...kept, ...api, model: 'm' }))
  process.send(server.url)
  process.on('message', () => process.send?.(held()))
  process.on('disconnect', () => void server.close().then(() => process.exit(0)))
} else if (process.send) {
  const own = { calibrate: false, threads: 1, sessions: 1, textThreads: 1, metricsPort: 0 }
  const options = resolveOptions({ ...settings, ...kept, ...own })
  const worker = await RerankWorker.start(options, modelSource(options))
  process.send('ready')
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  await soak(Number(role ?? 60))
}

async function soak(minutes: number): Promise<void> {
  rmSync(DATA, { recursive: true, force: true })
  const dataDir = '.rankmill/bench-redis'
  const redis = await findOrStartRedis({ dataDir, log: () => undefined, env: { PATH: process.env['PATH'] } })
  const secret = `whsec_${Buffer.alloc(24, 7).toString('base64')}`
  const env = { ...process.env, RANKMILL_REDIS: redis.url, RANKMILL_WEBHOOK_SECRET: secret }
  const start = (name: string) => fork(fileURLToPath(import.meta.url), [name], { env, execArgv: ['--expose-gc'] })
  const worker = start('worker')
  await once(worker, 'message')
  const server = start('server')
  const [url] = (await once(server, 'message')) as [string]
  const told = new Set<string>()
  const receiver = createServer((request, response) => {
    told.add(String(request.headers['webhook-id']))
    request.resume()
    response.writeHead(204).end()
  })
  await once(receiver.listen(0, '127.0.0.1'), 'listening')
  const webhook = `http://127.0.0.1:${(receiver.address() as { port: number }).port}/`
  printConditions('an API server under mixed load', { minutes, callers: CALLERS })
  console.log(`minute  requests  ${HELD_HEADER}`)
  const until = performance.now() + minutes * 60_000
  const counts: Record<string, number> = {}
  let asked = 0
  const callers = Array.from({ length: CALLERS }, async (_, caller) => {
    const random = seededRandom(caller + 1)
    while (performance.now() < until) {
      const askedAt = performance.now()
      const number = asked++
      const kind = KINDS[number % KINDS.length] ?? sync
      const outcome = await kind({ url, webhook, number, random }).catch((error: Error) => `failed: ${error.message}`)
      counts[`${kind.name} ${outcome}`] = (counts[`${kind.name} ${outcome}`] ?? 0) + 1
      await delay(performance.now() - askedAt)
    }
  })
  const seen: Held[] = []
  for (let look = 1; look <= LOOKS; look++) {
    await delay((minutes * 60_000) / LOOKS)
    server.send('look')
    const [now] = (await once(server, 'message')) as [Held]
    seen.push(now)
    printColumns([(look * minutes) / LOOKS, asked, ...columnsOf(now)])
  }
  await Promise.all(callers)
  // Events of the last jobs are still on their way.
  const jobs = Object.entries(counts).reduce((sum, [name, count]) => sum + (name.startsWith('job ') ? count : 0), 0)
  const patience = performance.now() + TOLD_MS
  while (told.size < jobs && performance.now() < patience) await delay(100)
  console.log(`outcomes: ${JSON.stringify(counts)}; webhooks told: ${told.size} of ${jobs}`)
  if (told.size !== jobs) process.exitCode = 1
  // Connections of callers and open files come and go.
  if (!printGrowth(seen, CALLERS)) process.exitCode = 1
  for (const child of [server, worker]) {
    child.disconnect()
    await once(child, 'exit')
  }
  receiver.close()
  await redis.stop()
}

interface Turn {
  readonly url: string
  readonly webhook: string
  readonly number: number
  readonly random: () => number
}

function documentsOf({ number, random }: Turn, most: number): string[] {
  return Array.from({ length: 1 + Math.floor(random() * most) }, (_, i) => `${number} ${i} ${TEXT.repeat(1 + (i % 4))}`)
}

async function call(url: string, method: string, body?: unknown, headers: Record<string, string> = {}) {
  const isRaw = body instanceof FormData || body instanceof Uint8Array || typeof body === 'string'
  const response = await fetch(url, {
    method,
    ...(body === undefined ? {} : { body: (isRaw ? body : JSON.stringify(body)) as string }),
    headers: {
      ...(body === undefined || body instanceof FormData ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
  })
  const text = await response.text()
  const isJson = response.headers.get('content-type')?.includes('json')
  return { status: response.status, body: (isJson ? JSON.parse(text) : {}) as Record<string, string> }
}

async function sync(turn: Turn): Promise<string> {
  const path = ['/v1/rerank', '/v2/rerank', '/voyage/v1/rerank', '/jina/v1/rerank', '/vllm/rerank'][turn.number % 5]
  const body = { query: `q ${turn.number}`, documents: documentsOf(turn, 40) }
  return String((await call(`${turn.url}${path}`, 'POST', body)).status)
}

async function tei(turn: Turn): Promise<string> {
  const body = { query: `q ${turn.number}`, texts: documentsOf(turn, 20), raw_scores: true }
  return String((await call(`${turn.url}/rerank`, 'POST', body)).status)
}

async function compressed(turn: Turn): Promise<string> {
  const body = gzipSync(JSON.stringify({ query: `q ${turn.number}`, documents: documentsOf(turn, 300) }))
  return String((await call(`${turn.url}/v1/rerank`, 'POST', body, { 'content-encoding': 'gzip' })).status)
}

async function wrong(turn: Turn): Promise<string> {
  const bodies = ['{"query":', '{}', `${'['.repeat(10_000)}`, '{"query":"q","documents":["a"],"topn":1}']
  const { status } = await call(`${turn.url}/v1/rerank`, 'POST', bodies[turn.number % bodies.length])
  await call(`${turn.url}/v1/nothing`, 'GET')
  return String(status)
}

async function hangsUp(turn: Turn): Promise<string> {
  const body = JSON.stringify({ query: `q ${turn.number}`, documents: documentsOf(turn, 200) })
  const signal = AbortSignal.timeout(1 + Math.floor(turn.random() * 10))
  const headers = { 'content-type': 'application/json' }
  return fetch(`${turn.url}/v1/rerank`, { method: 'POST', body, headers, signal }).then(
    async (response) => {
      await response.text().catch(() => undefined)
      return 'answered or left'
    },
    () => 'answered or left',
  )
}

async function job(turn: Turn): Promise<string> {
  const body = { query: `q ${turn.number}`, documents: documentsOf(turn, 40), webhook: turn.webhook }
  const { body: made } = await call(`${turn.url}/v1/rerank/jobs`, 'POST', body)
  const { body: done } = await call(`${turn.url}/v1/rerank/jobs/${made['id']}?wait=20s`, 'GET')
  if (turn.number % 2 === 0) await call(`${turn.url}/v1/rerank/jobs/${made['id']}`, 'DELETE')
  return String(done['status'])
}

async function events(turn: Turn): Promise<string> {
  const body = { query: `q ${turn.number}`, documents: documentsOf(turn, 40) }
  const { body: made } = await call(`${turn.url}/v1/rerank/jobs`, 'POST', body)
  const left = new AbortController()
  const stream = await fetch(`${turn.url}/v1/rerank/jobs/${made['id']}/events`, { signal: left.signal })
  if (turn.number % 3 === 0) {
    left.abort()
    return 'left'
  }
  return (await stream.text()).includes('event: end') ? 'to its end' : 'cut'
}

async function batch(turn: Turn): Promise<string> {
  const line = (i: number) =>
    JSON.stringify({ custom_id: `c${i}`, body: { query: `q ${turn.number} ${i}`, documents: documentsOf(turn, 5) } })
  const form = new FormData()
  form.append('purpose', 'batch')
  form.append(
    'file',
    new Blob([`${Array.from({ length: BATCH_LINES }, (_, i) => line(i)).join('\n')}\nwrong\n`]),
    'in.jsonl',
  )
  const { body: file } = await call(`${turn.url}/v1/files`, 'POST', form)
  const request = { input_file_id: file['id'], endpoint: '/v1/rerank', completion_window: '1h' }
  let { body: state } = await call(`${turn.url}/v1/batches`, 'POST', request)
  while (!['completed', 'failed', 'expired', 'cancelled'].includes(state['status'] ?? 'failed')) {
    await delay(200)
    state = (await call(`${turn.url}/v1/batches/${state['id']}`, 'GET')).body
  }
  await fetch(`${turn.url}/v1/files/${state['output_file_id']}/content`).then((response) => response.text())
  for (const id of [file['id'], state['output_file_id'], state['error_file_id']])
    await call(`${turn.url}/v1/files/${id}`, 'DELETE')
  return String(state['status'])
}

async function looks({ url }: Turn): Promise<string> {
  for (const path of [
    '/metrics',
    '/v1/status',
    '/v1/models',
    '/',
    '/readyz',
    '/v1/batches',
    '/v1/rerank/jobs',
    '/v1/files',
  ])
    await call(`${url}${path}`, 'GET')
  return 'seen'
}
