/**
 * What the queue costs a Redis, and what a fleet of several shards gains: fleets of one, two and three shards with an engine
 * that costs nothing, on a Redis Cluster of three primaries that is started here. Redis' own CPU seconds say what a primary
 * could carry that is not shared with its producers and workers, as everything here is: the busiest of them bounds the fleet.
 * By reference, workers keep no passage, so that every request reads all of its passages from the one shard that has the corpus.
 *
 *   npm run bench:shards [-- requests]
 */
import { type ChildProcess, execFile, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { RerankClient } from '../producer/client.js'
import { envOf, resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { infoField } from '../shared/redis/connection.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'
import { fakeSource } from './fake-source.js'

const CANDIDATES = 100
const PRIMARIES = 3
const PASSAGES = 2000
const WARM_UP = 100
const IDLE_MS = 4000
const FIRST_PORT = 21_700
const CORPUS = 'bench'
const TEXT = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '
const KINDS = ['inline', 'by reference'] as const

function* requests(count: number, kind: (typeof KINDS)[number]): Generator<RerankInput> {
  for (let i = 0; i < count; i++) {
    const documents = Array.from({ length: CANDIDATES }, (_, k) => `${i} ${k} ${TEXT.repeat(4)}`)
    const ids = documents.map((_, k) => `p${(i * 37 + k * 13) % PASSAGES}`)
    yield {
      query: `what does passage ${i} say`,
      documents: kind === 'inline' ? documents : { corpus: CORPUS, ids },
      topN: 10,
    }
  }
}

async function work(client: RerankClient, count: number, kind: (typeof KINDS)[number]): Promise<void> {
  for await (const { error } of client.rerankAll(requests(count, kind), { window: 64 })) if (error) throw error
}

async function cpuSeconds(redis: Redis): Promise<number> {
  const info = await redis.info('cpu')
  return Number(infoField(info, 'used_cpu_sys')) + Number(infoField(info, 'used_cpu_user'))
}

/** A fleet of so many shards with one worker process: all of them take the same way. */
async function startFleet(redis: string, shards: number): Promise<{ client: RerankClient; worker: ChildProcess }> {
  const fleet = { redis, prefix: `{bench-${shards}}`, shards }
  const env = Object.entries({ ...fleet, corpusCacheBytes: 0 }).map(([name, value]) => [envOf(name), String(value)])
  const worker = fork(fileURLToPath(import.meta.url), { env: { ...process.env, ...Object.fromEntries(env) } })
  await once(worker, 'message')
  return { client: new RerankClient({ ...fleet, resultTtlMs: 5000 }), worker }
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
  printConditions('queue path by shards, engine that costs nothing', {
    requests: count,
    candidates: CANDIDATES,
    primaries: PRIMARIES,
  })
  // What a node of a cluster spends on being one.
  await delay(2000)
  const atRest = await Promise.all(admins.map(cpuSeconds))
  await delay(IDLE_MS)
  const idle = (await Promise.all(admins.map(cpuSeconds))).map((cpu, i) => (cpu - (atRest[i] ?? 0)) / (IDLE_MS / 1000))
  console.log(`idle: ${idle.map((cpu) => (1000 * cpu).toFixed(1)).join(', ')} ms of CPU a second, taken off below`)
  const passages = Array.from({ length: PASSAGES }, (_, i) => ({ id: `p${i}`, text: `${i} ${TEXT.repeat(4)}` }))
  for (let shards = 1; shards <= PRIMARIES; shards++) {
    const { client, worker } = await startFleet(redis, shards)
    await client.putCorpus(CORPUS, passages)
    for (const kind of KINDS) {
      await work(client, WARM_UP, kind)
      const before = await Promise.all(admins.map(cpuSeconds))
      const startedAt = performance.now()
      await work(client, count, kind)
      const seconds = (performance.now() - startedAt) / 1000
      const after = await Promise.all(admins.map(cpuSeconds))
      const used = after.map((cpu, i) => cpu - (before[i] ?? 0) - (idle[i] ?? 0) * seconds).sort((a, b) => b - a)
      const pairs = count * CANDIDATES
      const micros = used.map((cpu) => ((1e6 * cpu) / count).toFixed(0)).join(', ')
      console.log(
        `shards: ${shards}, ${kind}: ${Math.round(pairs / seconds).toLocaleString('en')} pairs/s here; of the primaries' CPU ` +
          `${micros} µs a request of the fleet, so with a core for each it carries ` +
          `${Math.round(pairs / (used[0] ?? 1)).toLocaleString('en')} pairs/s`,
      )
    }
    await client.close()
    worker.disconnect()
    await once(worker, 'exit')
  }
  for (const admin of admins) admin.disconnect()
  for (const server of servers) server.kill('SIGKILL')
  await rm(folder, { recursive: true, force: true })
}
