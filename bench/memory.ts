/**
 * Memory of one worker over many pairs: a tiny model, requests of mixed lengths, the resident set every tenth of the way.
 *
 *   npm run bench:memory [-- pairs]
 */

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'

const CANDIDATES = 100
const WORDS = 'the worker takes jobs from a queue and scores every pair once before it writes the result back'.split(
  ' ',
)
const settings = {
  model: 'test/fixtures/models/one-logit',
  prefix: '{bench-memory}',
  metricsPort: 0,
  logLevel: 'error',
} as const

if (process.send) {
  // A cache of scores that fills Redis is not what is measured here.
  const options = resolveOptions({ ...settings, scoreCacheTtlMs: 0, calibrate: false })
  const worker = await RerankWorker.start(options, modelSource(options))
  process.send('ready')
  process.on('message', () => process.send?.(process.memoryUsage.rss()))
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const pairs = Number(process.argv[2] ?? 1_000_000)
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const worker = fork(fileURLToPath(import.meta.url), { env: { ...process.env, RANKMILL_REDIS: redis.url } })
  await once(worker, 'message')
  const client = new RerankClient({ redis: redis.url, prefix: settings.prefix, resultTtlMs: 1000 })
  printConditions('memory of a worker', { model: 'tiny', pairs, candidates: CANDIDATES })
  function* requests(): Generator<RerankInput> {
    for (let i = 0; i < pairs / CANDIDATES; i++) {
      const documents = Array.from({ length: CANDIDATES }, (_, d) => {
        const length = 1 + ((i * 31 + d * 17) % 60)
        return Array.from({ length }, (_, w) => WORDS[(i + d * w) % WORDS.length]).join(' ')
      })
      yield { query: `request ${i}`, documents, topN: 10 }
    }
  }
  let done = 0
  const startedAt = performance.now()
  const step = Math.max(1, Math.floor(pairs / CANDIDATES / 10))
  for await (const { error } of client.rerankAll(requests(), { window: 64 })) {
    if (error) throw error
    if (++done % step !== 0) continue
    worker.send('memory')
    const [rss] = await once(worker, 'message')
    const seconds = (performance.now() - startedAt) / 1000
    console.log(
      `${(done * CANDIDATES).toLocaleString('en').padStart(10)} pairs  ${Math.round(rss / 2 ** 20)} MiB  ${Math.round((done * CANDIDATES) / seconds)} pairs/s`,
    )
  }
  await client.close()
  worker.disconnect()
  await redis.stop()
}
