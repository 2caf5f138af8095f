/**
 * What the queue costs a Redis, and what several of them carry: fleets with an engine that costs nothing on the primaries of
 * a Redis Cluster that is started here, one fleet a primary, first one of them, then two, then three. Redis' own CPU seconds
 * say what a primary could carry that is not shared with its producers and workers, as everything here is.
 *
 *   npm run bench:shards [-- requests]
 */
import { execFile, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { infoField } from '../shared/redis/connection.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'
import { fakeSource } from './fake-source.js'

const CANDIDATES = 100
const PRIMARIES = 3
const FIRST_PORT = 21_700
const TEXT = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '

function* requests(count: number): Generator<RerankInput> {
  for (let i = 0; i < count; i++) {
    const documents = Array.from({ length: CANDIDATES }, (_, k) => `${i} ${k} ${TEXT.repeat(4)}`)
    yield { query: `what does passage ${i} say`, documents, topN: 10 }
  }
}

async function work(client: RerankClient, count: number): Promise<void> {
  for await (const { error } of client.rerankAll(requests(count), { window: 64 })) if (error) throw error
}

async function cpuSeconds(redis: Redis): Promise<number> {
  const info = await redis.info('cpu')
  return Number(infoField(info, 'used_cpu_sys')) + Number(infoField(info, 'used_cpu_user'))
}

/** A prefix whose slot is on that primary. */
async function prefixOn(redis: Redis): Promise<string> {
  for (let i = 0; ; i++) {
    const prefix = `{bench-${i}}`
    const here = await redis.exists(prefix).then(
      () => true,
      () => false,
    )
    if (here) return prefix
  }
}

if (process.send) {
  const options = resolveOptions({ scoreCacheTtlMs: 0, metricsPort: 0, logLevel: 'error', concurrency: 64 })
  const worker = await RerankWorker.start(options, fakeSource)
  process.send('ready')
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const [count = 2000] = process.argv.slice(2).map(Number)
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-shards-'))
  const ports = Array.from({ length: PRIMARIES }, (_, i) => FIRST_PORT + i)
  const servers = ports.map((port) => {
    const flags = ['--port', `${port}`, '--cluster-enabled', 'yes', '--cluster-config-file', `nodes-${port}.conf`]
    return spawn('redis-server', [...flags, '--save', '', '--bind', '127.0.0.1', '--dir', folder], { stdio: 'ignore' })
  })
  const admins = ports.map((port) => new Redis(port, { maxRetriesPerRequest: null }))
  for (const admin of admins) await admin.on('error', () => undefined).ping()
  const nodes = ports.map((port) => `127.0.0.1:${port}`)
  await promisify(execFile)('redis-cli', ['--cluster', 'create', ...nodes, '--cluster-yes'])
  const redis = `redis+cluster://${nodes.join(',')}`
  const prefixes = await Promise.all(admins.map(prefixOn))
  printConditions('queue path by primaries, engine that costs nothing', {
    requests: `${count} a fleet`,
    candidates: CANDIDATES,
    primaries: PRIMARIES,
  })
  const children = prefixes.map((prefix) =>
    fork(fileURLToPath(import.meta.url), { env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix } }),
  )
  await Promise.all(children.map((child) => once(child, 'message')))
  const clients = prefixes.map((prefix) => new RerankClient({ redis, prefix, resultTtlMs: 5000 }))
  await Promise.all(clients.map((client) => work(client, 100)))
  for (let fleets = 1; fleets <= PRIMARIES; fleets++) {
    const before = await Promise.all(admins.map(cpuSeconds))
    const startedAt = performance.now()
    await Promise.all(clients.slice(0, fleets).map((client) => work(client, count)))
    const seconds = (performance.now() - startedAt) / 1000
    const after = await Promise.all(admins.map(cpuSeconds))
    const used = after.map((cpu, i) => cpu - (before[i] ?? 0)).slice(0, fleets)
    const pairs = count * CANDIDATES
    const busiest = Math.max(...used)
    console.log(
      `primaries: ${fleets}; ${Math.round((fleets * pairs) / seconds).toLocaleString('en')} pairs/s in all; of Redis' CPU ` +
        `${used.map((cpu) => ((1e6 * cpu) / count).toFixed(0)).join(', ')} µs a request, so a primary alone on a core ` +
        `carries ${Math.round(pairs / busiest).toLocaleString('en')} pairs/s`,
    )
  }
  await Promise.all(clients.map((client) => client.close()))
  for (const child of children) child.disconnect()
  await Promise.all(children.map((child) => once(child, 'exit')))
  for (const admin of admins) admin.disconnect()
  for (const server of servers) server.kill('SIGKILL')
  await rm(folder, { recursive: true, force: true })
}
