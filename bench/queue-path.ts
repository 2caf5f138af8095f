/**
 * How many pairs a second the queue can carry, with an engine that costs nothing: requests of 100 candidates, inline and
 * by reference, from one producer process through Redis to worker processes and back; and, to compare with, the same
 * number of BullMQ jobs with the same payload that do nothing at all.
 *
 *   npm run bench:queue [-- requests] [workers]
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { RerankWorker } from '../worker/worker.js'
import { bareQueue } from './bare-queue.js'
import { median, printConditions } from './conditions.js'
import { fakeSource } from './fake-source.js'

const CANDIDATES = 100
const PASSAGES = 20_000
const PASSAGE = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '
const ROUNDS = 3

const passages = Array.from({ length: PASSAGES }, (_, i) => ({ id: `p${i}`, text: `${i} ${PASSAGE.repeat(4)}` }))

function* requests(count: number, kind: 'inline' | 'reference'): Generator<RerankInput> {
  for (let i = 0; i < count; i++) {
    const at = (i * 37) % (PASSAGES - CANDIDATES)
    const candidates = passages.slice(at, at + CANDIDATES)
    const documents =
      kind === 'inline' ? candidates.map(({ text }) => text) : { corpus: 'bench', ids: candidates.map(({ id }) => id) }
    yield { query: `what does passage ${i} say`, documents, topN: 10 }
  }
}

async function measure(client: RerankClient, count: number, kind: 'inline' | 'reference'): Promise<number> {
  const startedAt = performance.now()
  for await (const { error } of client.rerankAll(requests(count, kind), { window: 64 })) if (error) throw error
  return (count * CANDIDATES) / ((performance.now() - startedAt) / 1000)
}

if (process.send) {
  const options = resolveOptions({
    scoreCacheTtlMs: 0,
    metricsPort: 0,
    logLevel: 'error',
    maxInflightPairs: 100_000,
    concurrency: 64,
    corpusCacheBytes: 256_000_000,
  })
  const worker = await RerankWorker.start(options, fakeSource)
  process.send('ready')
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const [count = 2000, workers = 1] = process.argv.slice(2).map(Number)
  const redis = await findOrStartRedis({ dataDir: '.rankmill/bench-redis', log: () => undefined, env: {} })
  const env = { ...process.env, RANKMILL_REDIS: redis.url, RANKMILL_PREFIX: '{bench}' }
  const children = Array.from({ length: workers }, () => fork(fileURLToPath(import.meta.url), { env }))
  await Promise.all(children.map((child) => once(child, 'message')))
  const client = new RerankClient({ redis: redis.url, prefix: '{bench}', resultTtlMs: 5000 })
  await client.putCorpus('bench', passages)
  printConditions('queue path, engine that costs nothing', {
    requests: count,
    candidates: CANDIDATES,
    bytesPerPassage: passages[0]?.text.length,
    workers,
    rounds: ROUNDS,
  })
  await measure(client, 200, 'inline')
  await measure(client, 200, 'reference')
  const rates: Record<string, number[]> = { 'bare BullMQ, inline': [], inline: [], 'by reference': [] }
  for (let round = 0; round < ROUNDS; round++) {
    rates['bare BullMQ, inline']?.push(await bareQueue(redis.url, [...requests(count, 'inline')]))
    rates['inline']?.push(await measure(client, count, 'inline'))
    rates['by reference']?.push(await measure(client, count, 'reference'))
  }
  for (const [name, values] of Object.entries(rates)) {
    console.log(
      `${name.padEnd(22)} median ${Math.round(median(values)).toLocaleString('en')} pairs/s  (${values.map((v) => Math.round(v)).join(', ')})`,
    )
  }
  await client.close()
  for (const child of children) child.disconnect()
  await redis.stop()
}
