/** Worker processes on one device behind Redis: what they carry together, and how long one request takes alone. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
import { RerankClient } from '../../producer/client.js'
import { type Options, resolveOptions } from '../../shared/options.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import { percentile } from '../conditions.js'
import { ROOT, row } from './scoring.js'
import { readTexts } from './texts.js'

/** Requests of 100 pairs of 200 tokens through Redis to so many worker processes on one device. */
export async function measureFleet([
  device = 'cpu',
  dtype = 'auto',
  model = '',
  textsFile = '',
  count = '1',
  requests = '100',
]: string[]) {
  const settings = {
    device,
    dtype,
    model,
    scoreCacheTtlMs: 0,
    metricsPort: 0,
    logLevel: 'error',
    prefix: '{bench-gpu}',
  }
  const redis = await findOrStartRedis({
    dataDir: join(ROOT, '.rankmill/bench-redis'),
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const started: ChildProcess[] = []
  const client = new RerankClient({ redis: redis.url, prefix: settings.prefix })
  try {
    const env = { ...process.env, RANKMILL_REDIS: redis.url, BENCH_SETTINGS: JSON.stringify(settings) }
    // One after the other: the first measures the shape, the others know it.
    for (let i = 0; i < Number(count); i++) {
      const worker = fork(process.argv[1] ?? '', { env })
      started.push(worker)
      const [said] = await Promise.race([once(worker, 'message'), once(worker, 'exit')])
      if (said !== 'ready') throw new Error(`a worker ended: ${said}`)
    }
    const pairs = (await readTexts(textsFile))['200'] ?? []
    const input = (some: number) =>
      Array.from({ length: some }, (_, request) => ({
        // Another query each time, or requests would be the same one.
        query: `${request} ${pairs[0]?.[0]}`,
        documents: Array.from({ length: 100 }, (_, i) => pairs[(request * 37 + i) % pairs.length]?.[1] ?? ''),
      }))
    const all = async (some: number) => {
      for await (const { error } of client.rerankAll(input(some), { window: 16 * Number(count) }))
        if (error) throw error
    }
    await all(2 * Number(count))
    const startedAt = performance.now()
    await all(Number(requests))
    const seconds = (performance.now() - startedAt) / 1000
    const latencies: number[] = []
    for (const request of input(20)) {
      const askedAt = performance.now()
      await client.rerank({ ...request, query: `alone ${request.query}` })
      latencies.push(performance.now() - askedAt)
    }
    const pairsPerSecond = Number(((100 * Number(requests)) / seconds).toFixed(1))
    const alone = Number(percentile(latencies, 0.5).toFixed(1))
    row({ what: 'workers', model, dtype, device, tokens: 200, workers: Number(count), pairsPerSecond, msAlone: alone })
  } finally {
    for (const worker of started) worker.kill('SIGTERM')
    await client.close()
    await redis.stop()
  }
}

/** A worker process of that step. */
export async function serveFleet(): Promise<void> {
  const options = resolveOptions(JSON.parse(process.env['BENCH_SETTINGS'] ?? '{}') as Partial<Options>)
  const worker = await RerankWorker.start(options, modelSource(options))
  const stop = () => void worker.close(true).then(() => process.exit(0))
  process.on('disconnect', stop)
  process.on('SIGTERM', stop)
  process.send?.('ready')
}
