/**
 * End to end against the bare minimum: requests of 100 candidates through client, Redis, worker and batcher, and a bare loop
 * of ONNX Runtime over the very same encoded pairs, in the same shape (sessions, threads, pairs a call), in turn, in the same run.
 * Texts are the passages of `rankmill demo`: natural lengths.
 *
 *   npm run bench:throughput [-- model] [dtype] [rounds]
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { packagesFolder, readPassages } from '../cli/demo/passages.js'
import { QUESTIONS } from '../cli/demo/questions.js'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { type Options, resolveOptions } from '../shared/options.js'
import { assembleBatch } from '../worker/batching/batch-assembly.js'
import { ScoringGroup } from '../worker/batching/scoring-group.js'
import type { InferenceEngine } from '../worker/inference/engine.js'
import { modelSource } from '../worker/model-source.js'
import { PairEncoder } from '../worker/tokenize/pair-encoder.js'
import { RerankWorker } from '../worker/worker.js'
import { median, printConditions } from './conditions.js'

const CANDIDATES = 100
const REQUESTS = 6

const [model = 'rankmill-small', dtype = 'auto', rounds = '5'] = process.argv.slice(2)
const settings = {
  model,
  dtype: dtype as Options['dtype'],
  scoreCacheTtlMs: 0,
  metricsPort: 0,
  logLevel: 'error',
  prefix: '{bench-throughput}',
} as const

if (process.send) {
  const options = resolveOptions(settings)
  const worker = await RerankWorker.start(options, modelSource(options))
  process.send('ready')
  process.on('message', async () => {
    const { values } = await worker.metrics.batchPaddingRatio.get()
    const of = (suffix: string) => values.find(({ metricName }) => metricName?.endsWith(suffix))?.value ?? 0
    process.send?.(of('_sum') / of('_count'))
  })
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const options = resolveOptions({ ...settings, redis: redis.url })
  const passages = await readPassages(packagesFolder())
  const requests = QUESTIONS.slice(0, REQUESTS).map((query, q) => ({
    query,
    documents: Array.from({ length: CANDIDATES }, (_, i) => passages[(q * 997 + i * 31) % passages.length]?.text ?? ''),
  }))

  const source = modelSource(options)
  const opened = await source.openModel(model, options.dtype)
  const encoder = new PairEncoder(await source.loadTokenizer(opened), {
    maxTokens: opened.maxTokens,
    truncation: 'longest_first',
    cacheTokens: 0,
  })
  const pairs = requests.flatMap(({ query, documents }) => documents.map((text) => encoder.encode(query, text)))
  const tokens = pairs.reduce((sum, pair) => sum + pair.ids.length, 0)
  const engine = await source.createEngine(opened)

  const worker = fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
    env: { ...process.env, RANKMILL_REDIS: redis.url },
  })
  await once(worker, 'message')
  const client = new RerankClient({ redis: redis.url, prefix: settings.prefix })
  printConditions('end to end against a bare loop', {
    model: opened.name,
    dtype: opened.dtype,
    shape: engine.shape,
    cores: availableParallelism(),
    requests: REQUESTS,
    candidates: CANDIDATES,
    tokensPerPair: Math.round(tokens / pairs.length),
    rounds,
  })

  const bare = async () => {
    const startedAt = performance.now()
    await bareLoop(engine, pairs, opened)
    return pairs.length / ((performance.now() - startedAt) / 1000)
  }
  const whole = async () => {
    const startedAt = performance.now()
    for await (const { error } of client.rerankAll(requests, { window: REQUESTS })) if (error) throw error
    return pairs.length / ((performance.now() - startedAt) / 1000)
  }
  await bare()
  await whole()
  const [bareRates, wholeRates]: [number[], number[]] = [[], []]
  for (let round = 0; round < Number(rounds); round++) {
    // Turn about, so that a drift of the machine's speed meets both.
    const inTurn = round % 2 === 0 ? [bare, whole] : [whole, bare]
    for (const run of inTurn) (run === bare ? bareRates : wholeRates).push(await run())
  }
  const ratios = wholeRates.map((rate, i) => rate / (bareRates[i] ?? rate))
  const show = (values: number[], digits = 1) =>
    `median ${median(values).toFixed(digits)} (${values.map((v) => v.toFixed(digits)).join(', ')})`
  console.log(`bare loop    pairs/s  ${show(bareRates)}`)
  console.log(`end to end   pairs/s  ${show(wholeRates)}`)
  console.log(`ratio                 ${show(ratios, 3)}`)
  worker.send('padding')
  const [padding] = await once(worker, 'message')
  console.log(`padding               mean ${(100 * padding).toFixed(2)} % of a batch's tokens`)
  await client.close()
  worker.disconnect()
  await engine.close()
  await redis.stop()
}

/** Sorted by length, cut into full batches, every session kept busy: what a careful person would write by hand. */
async function bareLoop(
  engine: InferenceEngine,
  pairs: ScoringGroup['entries'][number]['pair'][],
  { padId, usesTokenTypes }: { padId: number; usesTokenTypes: boolean },
): Promise<void> {
  const { entries } = new ScoringGroup(pairs, 0, null, 0)
  const { batchPairs, batchTokens } = engine.shape
  let at = entries.length
  const next = () => {
    const longest = entries[at - 1]?.pair.ids.length ?? 1
    const size = Math.max(1, Math.min(batchPairs, Math.floor(batchTokens / longest), at))
    at -= size
    return entries.slice(at, at + size)
  }
  const lane = async () => {
    while (at > 0) await engine.run(assembleBatch(next(), padId, usesTokenTypes))
  }
  await Promise.all(Array.from({ length: engine.slots }, lane))
}
