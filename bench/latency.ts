/**
 * What the queue adds: one request at a time through an idle system, against the same pairs straight through the engine.
 *
 *   npm run bench:latency [-- model] [requests]
 */
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

const [model = 'rankmill-small', requests = '200'] = process.argv.slice(2)
const redis = await findOrStartRedis({
  dataDir: '.rankmill/bench-redis',
  log: () => undefined,
  env: { PATH: process.env['PATH'] },
})
const options = resolveOptions({
  model,
  redis: redis.url,
  prefix: '{bench-latency}',
  scoreCacheTtlMs: 0,
  metricsPort: 0,
  logLevel: 'error',
})
const worker = await RerankWorker.start(options, modelSource(options))
const scorer = await worker.scorers.get(null, 'auto')
const encoder = new PairEncoder(await loadTokenizer(scorer.model.folder), scorer.encoder)
const client = new RerankClient({ redis: redis.url, prefix: options.prefix })
printConditions('added latency of an idle system, one short document a request', {
  model: scorer.model.name,
  dtype: scorer.model.dtype,
  shape: scorer.engine.shape,
  requests,
})

const [direct, whole]: [number[], number[]] = [[], []]
for (let i = 0; i < Number(requests) + 20; i++) {
  const [query, text] = [`question number ${i}`, `a short passage, number ${i}, that might answer it`]
  let startedAt = performance.now()
  const { entries } = new ScoringGroup([encoder.encode(query, text)], 0, null, 0)
  await scorer.engine.run(assembleBatch(entries, scorer.model.padId, scorer.model.usesTokenTypes))
  const directMs = performance.now() - startedAt
  startedAt = performance.now()
  await client.rerank({ query, documents: [text] })
  const wholeMs = performance.now() - startedAt
  // The first requests warm up the runtime's own compiler.
  if (i < 20) continue
  direct.push(directMs)
  whole.push(wholeMs)
}
const added = whole.map((ms, i) => ms - (direct[i] ?? 0))
for (const [name, values] of Object.entries({ direct, 'through the queue': whole, added })) {
  console.log(
    `${name.padEnd(18)} p50 ${percentile(values, 0.5).toFixed(2)} ms, p95 ${percentile(values, 0.95).toFixed(2)} ms`,
  )
}
await client.close()
await worker.close()
await redis.stop()
