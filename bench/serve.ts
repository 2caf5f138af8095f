/**
 * What the API adds: requests over HTTP against the same through the library and, one at a time, straight through the
 * engine; then how many a second either gives when it has more than it can do. The server is a process of its own.
 *
 *   npm run bench:serve [-- model] [requests]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request as httpRequest } from 'node:http'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import { assembleBatch } from '../worker/batching/batch-assembly.js'
import { ScoringGroup } from '../worker/batching/scoring-group.js'
import { modelSource } from '../worker/model-source.js'
import { PairEncoder } from '../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../worker/tokenize/tokenizer.js'
import { RerankWorker } from '../worker/worker.js'
import { percentile, printConditions } from './conditions.js'

interface Request {
  readonly query: string
  readonly documents: string[]
}

const CLIENTS = [1, 4, 16]
const SATURATING = 64
const DOCUMENTS = 10
const WARM_UP = 20
const [model = 'rankmill-nano', requests = '200'] = process.argv.slice(2)
const count = Number(requests)
const redis = await findOrStartRedis({
  dataDir: '.rankmill/bench-redis',
  log: () => undefined,
  env: { PATH: process.env['PATH'] },
})
const options = resolveOptions({
  model,
  redis: redis.url,
  prefix: `{bench-serve-${process.pid}}`,
  scoreCacheTtlMs: 0,
  metricsPort: 0,
  logLevel: 'error',
})
const worker = await RerankWorker.start(options, modelSource(options))
const scorer = await worker.scorers.get(null, 'auto')
const client = new RerankClient({ redis: redis.url, prefix: options.prefix })
const server = await startServer()
const agent = new Agent({ keepAlive: true, maxSockets: SATURATING })
printConditions('what the HTTP API adds', { model: scorer.model.name, dtype: scorer.model.dtype, requests })

let drawn = 0
const draw = (documents: number): Request => {
  const number = drawn++
  const text = (i: number) => `a short passage, number ${number}.${i}, that might answer it`
  return { query: `question number ${number}`, documents: Array.from({ length: documents }, (_, i) => text(i)) }
}
const ways = {
  http: (request: Request) => overHttp(JSON.stringify(request)),
  library: (request: Request) => client.rerank(request),
}

for (let i = 0; i < WARM_UP; i++) for (const way of Object.values(ways)) await way(draw(1))
const encoder = new PairEncoder(await loadTokenizer(scorer.model.folder), scorer.encoder)
const direct: number[] = []
for (let i = 0; i < count + WARM_UP; i++) {
  const { query, documents } = draw(1)
  const startedAt = performance.now()
  const { entries } = new ScoringGroup([encoder.encode(query, documents[0] ?? '')], 0, null, 0)
  await scorer.engine.run(assembleBatch(entries, scorer.model.padId, scorer.model.usesTokenTypes))
  if (i >= WARM_UP) direct.push(performance.now() - startedAt)
}
print('bare model call, 1 at a time', direct)
for (const clients of CLIENTS) {
  for (const [name, way] of Object.entries(ways)) {
    const { times } = await measure(clients, count, () => way(draw(1)))
    print(`${name}, ${clients} at a time`, times)
  }
}
for (const round of [1, 2]) {
  for (const [name, way] of Object.entries(ways)) {
    const { seconds } = await measure(SATURATING, count * 2, () => way(draw(DOCUMENTS)))
    const pairs = (count * 2 * DOCUMENTS) / seconds
    console.log(`${name}, ${SATURATING} at a time, ${DOCUMENTS} documents, round ${round}: ${pairs.toFixed(0)} pairs/s`)
  }
}
agent.destroy()
await server.stop()
await client.close()
await worker.close()
await redis.stop()

/** Asks so often, so many at once. */
async function measure(clients: number, total: number, ask: () => Promise<unknown>) {
  const times: number[] = []
  let left = total
  const startedAt = performance.now()
  const one = async () => {
    while (left-- > 0) {
      const askedAt = performance.now()
      await ask()
      times.push(performance.now() - askedAt)
    }
  }
  await Promise.all(Array.from({ length: clients }, one))
  return { times, seconds: (performance.now() - startedAt) / 1000 }
}

function print(name: string, times: readonly number[]): void {
  const [p50, p99] = [percentile(times, 0.5), percentile(times, 0.99)].map((ms) => `${ms.toFixed(2)} ms`)
  console.log(`${name.padEnd(30)} p50 ${p50}, p99 ${p99}`)
}

function overHttp(body: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const asked = httpRequest(`${server.url}/v1/rerank`, { method: 'POST', agent, headers }, (response) => {
      response.resume()
      response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(`${response.statusCode}`))))
    })
    asked.on('error', reject)
    asked.end(body)
  })
}

async function startServer(): Promise<{ url: string; stop: () => Promise<unknown> }> {
  const main = fileURLToPath(new URL('../cli/main.js', import.meta.url))
  const env = { ...process.env, REDIS_URL: redis.url, RANKMILL_PREFIX: options.prefix, RANKMILL_LOG_LEVEL: 'error' }
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', '--data-dir', '.cache/bench-serve'], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const stop = async () => {
    child.kill('SIGTERM')
    if (child.exitCode === null) await once(child, 'exit')
  }
  const url = await new Promise<string>((resolve, reject) => {
    let said = ''
    child.stderr.on('data', (chunk) => {
      said += String(chunk)
      const found = /the API is at (\S+),/.exec(said)?.[1]
      if (found) resolve(found)
    })
    child.once('exit', () => reject(new Error(`the server ended: ${said}`)))
  })
  return { url, stop }
}
