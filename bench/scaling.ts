/**
 * What more workers give. Measures what a request costs the producer, Redis and a worker's own thread; lets 1, 2 and 4
 * workers run whose model calls take a time but no CPU, so that they stand for machines of their own; simulates the same
 * fleets, which must come out as measured; and then fleets that no single machine can hold.
 *
 *   npm run bench:scaling [-- requests a worker]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import { infoField } from '../shared/redis/connection.js'
import { RerankWorker } from '../worker/worker.js'
import { median, percentile, printConditions } from './conditions.js'
import { type ServiceTimes, type SimulationResult, simulateFleet } from './fleet-simulation.js'
import { CallTimes, timedSource } from './timed-source.js'

const CANDIDATES = 100
const FEW = 10
const TEXT = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '
const SHAPE = { sessions: 2, threadsPerSession: 1, batchPairs: 32, batchTokens: 1 << 20 }
const MS_PER_PAIR = 0.625
const IN_HAND = 16
const FREE_REQUESTS = 1500
/** Of workers that exist: pairs a second of one process. */
const KINDS = [
  { name: 'two CPU cores', pairsPerSecond: 100 },
  { name: 'sixteen CPU cores', pairsPerSecond: 800 },
  { name: 'a GPU', pairsPerSecond: 10_000 },
] as const
const FLEETS = [10, 100, 1000] as const
/** Simulated seconds of full load, about. */
const SIMULATED_SECONDS = 200

interface WorkerUse {
  readonly cpuSeconds: number
  readonly callPairs: number
  readonly callSeconds: number
}

interface Measured {
  readonly pairsPerSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly times: ServiceTimes
}

if (process.send) {
  const msPerPair = Number(process.env['BENCH_MS_PER_PAIR'])
  const hands = msPerPair === 0 ? 64 : IN_HAND
  const options = resolveOptions({
    scoreCacheTtlMs: 0,
    metricsPort: 0,
    logLevel: 'error',
    concurrency: hands,
    maxInflightPairs: 100_000,
  })
  const times = new CallTimes()
  const worker = await RerankWorker.start(options, timedSource(SHAPE, msPerPair, times))
  process.send('ready')
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    const use: WorkerUse = { cpuSeconds: (user + system) / 1e6, callPairs: times.pairs, callSeconds: times.seconds }
    process.send?.(use)
  })
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const [each = 200] = process.argv.slice(2).map(Number)
  const redis = await findOrStartRedis({ dataDir: '.rankmill/bench-redis', log: () => undefined, env: {} })
  const admin = new Redis(redis.url, { maxRetriesPerRequest: null })
  printConditions('what more workers give', { candidates: CANDIDATES, bytesPerPassage: TEXT.length * 4, redis: 1 })

  const small = await measureFleet(1, 0, FREE_REQUESTS, 64, FEW)
  const free = await measureFleet(1, 0, FREE_REQUESTS, 64)
  const micros = (seconds: number) => `${Math.round(seconds * 1e6)} µs`
  for (const [candidates, { times }] of [
    [FEW, small],
    [CANDIDATES, free],
  ] as const) {
    console.log(
      `a request of ${candidates} inline candidates: producer ${micros(times.producer)}, Redis ${micros(times.redis)}, ` +
        `worker's own thread ${micros(times.host)} of CPU; a hop ${micros(times.network)}`,
    )
  }
  console.log()

  console.log('workers  measured pairs/s  simulated  difference  p50 ms measured/simulated  p99 ms')
  for (const workers of [1, 2, 4]) {
    const load = { requests: each * workers, pairsPerRequest: CANDIDATES, window: IN_HAND * workers }
    const measured = await measureFleet(workers, MS_PER_PAIR, load.requests, load.window)
    const times = { ...free.times, pair: measured.times.pair }
    const fleet = { workers, shards: 1, producers: 1, requestsInHand: IN_HAND }
    const simulated = simulateFleet({ ...fleet, sessionsPerWorker: 2, pairsPerCall: SHAPE.batchPairs }, times, load)
    const difference = (100 * (simulated.pairsPerSecond / measured.pairsPerSecond - 1)).toFixed(1)
    console.log(
      [
        String(workers).padStart(7),
        whole(measured.pairsPerSecond).padStart(17),
        whole(simulated.pairsPerSecond).padStart(10),
        `${difference} %`.padStart(11),
        `${measured.p50Ms.toFixed(0)}/${simulated.p50Ms.toFixed(0)}`.padStart(26),
        `${measured.p99Ms.toFixed(0)}/${simulated.p99Ms.toFixed(0)}`.padStart(7),
      ].join(' '),
    )
  }

  console.log('\n| workers | each | shards | pairs/s | of what they could | Redis busy | producers |')
  console.log('| ---: | --- | ---: | ---: | ---: | ---: | ---: |')
  for (const kind of KINDS) {
    for (const workers of FLEETS) {
      for (const shards of [1, 4, 16, 64]) {
        const { result, producers } = predict(kind.pairsPerSecond, workers, shards, free.times)
        const share = result.pairsPerSecond / (kind.pairsPerSecond * workers)
        console.log(
          `| ${whole(workers)} | ${kind.name} | ${shards} | ${whole(result.pairsPerSecond)} | ${percent(share)} | ${percent(result.busy.redis)} | ${producers} |`,
        )
        if (share > 0.98) break
      }
    }
  }
  admin.disconnect()
  await redis.stop()

  /** Runs a fleet of children; what each process and Redis used for a request. */
  async function measureFleet(
    workers: number,
    msPerPair: number,
    requests: number,
    window: number,
    candidates = CANDIDATES,
  ): Promise<Measured> {
    const prefix = `{bench-scaling-${workers}-${msPerPair}-${candidates}}`
    const env = {
      ...process.env,
      RANKMILL_REDIS: redis.url,
      RANKMILL_PREFIX: prefix,
      BENCH_MS_PER_PAIR: String(msPerPair),
    }
    const children = Array.from({ length: workers }, () => fork(fileURLToPath(import.meta.url), { env }))
    await Promise.all(children.map((child) => once(child, 'message')))
    const client = new RerankClient({ redis: redis.url, prefix, resultTtlMs: 5000 })
    await ask(client, window * 2, window, candidates)
    const before = await uses(children)
    const redisBefore = await redisSeconds()
    const own = process.cpuUsage()
    const startedAt = performance.now()
    const latencies = await ask(client, requests, window, candidates)
    const seconds = (performance.now() - startedAt) / 1000
    const ownAfter = process.cpuUsage(own)
    const redisUsed = (await redisSeconds()) - redisBefore
    const after = await uses(children)
    const sum = (list: readonly WorkerUse[], of: keyof WorkerUse) => list.reduce((all, use) => all + use[of], 0)
    const grown = (of: keyof WorkerUse) => sum(after, of) - sum(before, of)
    const network = await hopSeconds()
    await client.close()
    for (const child of children) child.disconnect()
    await Promise.all(children.map((child) => once(child, 'exit')))
    return {
      pairsPerSecond: (requests * candidates) / seconds,
      p50Ms: percentile(latencies, 0.5),
      p99Ms: percentile(latencies, 0.99),
      times: {
        producer: (ownAfter.user + ownAfter.system) / 1e6 / requests,
        redis: redisUsed / requests,
        host: grown('cpuSeconds') / requests,
        pair: grown('callPairs') === 0 ? 0 : grown('callSeconds') / grown('callPairs'),
        network,
      },
    }
  }

  async function redisSeconds(): Promise<number> {
    const info = await admin.info('cpu')
    return Number(infoField(info, 'used_cpu_sys')) + Number(infoField(info, 'used_cpu_user'))
  }

  /** Half of a round trip that asks for nothing. */
  async function hopSeconds(): Promise<number> {
    const trips: number[] = []
    for (let i = 0; i < 200; i++) {
      const startedAt = performance.now()
      await admin.ping()
      trips.push(performance.now() - startedAt)
    }
    return median(trips) / 2000
  }
}

/** Keeps a window of requests open, each asked when another is answered. @returns how long each took, in ms */
async function ask(client: RerankClient, requests: number, window: number, candidates: number): Promise<number[]> {
  const latencies: number[] = []
  let next = 0
  const askOn = async () => {
    while (next < requests) {
      const i = next++
      const documents = Array.from({ length: candidates }, (_, k) => `${i} ${k} ${TEXT.repeat(4)}`)
      const startedAt = performance.now()
      await client.rerank({ query: `what does passage ${i} say`, documents, topN: 10 })
      latencies.push(performance.now() - startedAt)
    }
  }
  await Promise.all(Array.from({ length: window }, askOn))
  return latencies
}

async function uses(children: readonly ChildProcess[]): Promise<WorkerUse[]> {
  return Promise.all(
    children.map(async (child) => {
      child.send('use')
      const [use] = (await once(child, 'message')) as [WorkerUse]
      return use
    }),
  )
}

/** With as many producers as keep all of it busy. */
function predict(
  pairsPerSecond: number,
  workers: number,
  shards: number,
  times: ServiceTimes,
): { result: SimulationResult; producers: number } {
  const wanted = (pairsPerSecond * workers) / CANDIDATES
  const producers = Math.ceil(2 * wanted * times.producer)
  const requests = Math.min(300_000, Math.ceil(wanted * SIMULATED_SECONDS))
  const fleet = { workers, shards, producers, requestsInHand: 8, sessionsPerWorker: 2, pairsPerCall: 32 }
  const window = Math.ceil((2 * 8 * workers) / producers)
  const pair = 2 / pairsPerSecond
  return {
    result: simulateFleet(fleet, { ...times, pair }, { requests, pairsPerRequest: CANDIDATES, window }),
    producers,
  }
}

function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`
}
