/**
 * The steps of bench/gpu.sh, each a process of its own, so that a driver that crashes ends a step and no more. Rows go to
 * standard output as JSON lines, what else there is to say to standard error.
 *
 *   node dist/bench/gpu.js texts FILE [pairs]                      pairs of 64, 200 and 500 tokens, for both sides
 *   node dist/bench/gpu.js reference FILE MODEL…                   fp32 scores on the CPU, to be compared with
 *   node dist/bench/gpu.js correct DEVICE FILE                     the device's fp32 and fp16 scores against these
 *   node dist/bench/gpu.js speed DEVICE DTYPE FOLDER TEXTS [ms] [tokens a call, …] [lengths, …]
 *   node dist/bench/gpu.js workers DEVICE DTYPE MODEL TEXTS COUNT [requests]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { type Options, resolveOptions } from '../shared/options.js'
import { Batcher } from '../worker/batching/batcher.js'
import { syntheticBatch } from '../worker/inference/calibration.js'
import { tryDevice } from '../worker/inference/device.js'
import type { EngineOptions } from '../worker/inference/engine.js'
import { createEngine } from '../worker/inference/session-pool.js'
import { measureSpeed } from '../worker/inference/speed.js'
import { type Device, type Dtype, type Model, openModel } from '../worker/model/model.js'
import { modelSource } from '../worker/model-source.js'
import { type EncodedPair, PairEncoder } from '../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../worker/tokenize/tokenizer.js'
import { RerankWorker } from '../worker/worker.js'
import { percentile } from './conditions.js'

type Pairs = [query: string, document: string][]
type Texts = Record<string, Pairs>
/** By model: the logits of the first pairs of each length. */
type Reference = Record<string, Record<string, number[]>>

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const CACHE = join(ROOT, '.cache/gpu')
const LENGTHS = [64, 200, 500]
const QUERY_WORDS = 8
/** Pairs of each length that scores are compared on. */
const COMPARED = 24
const log = {
  info: () => undefined,
  warn: (fields: object, text: string) => console.error(text, JSON.stringify(fields)),
}
const row = (fields: object) => console.log(JSON.stringify(fields))

const [step, ...args] = process.argv.slice(2)
if (process.send) await serve()
else if (step === 'texts') await writeTexts(args[0] ?? '', Number(args[1] ?? 2048))
else if (step === 'reference') await writeReference(args[0] ?? '', args.slice(1))
else if (step === 'correct') await compare(args[0] as Device, args[1] ?? '')
else if (step === 'speed') await speed(args[0] as Device, args[1] as Dtype, args[2] ?? '', args[3] ?? '', args.slice(4))
else if (step === 'workers') await workers(args)
else throw new Error('texts, reference, correct, speed or workers')

/** Words of one token each, so that a length in tokens is one in words; a generator of fixed seed draws them. */
async function writeTexts(file: string, count: number): Promise<void> {
  const tokenizer = JSON.parse(await readFile(join(ROOT, 'models/rankmill-nano/tokenizer.json'), 'utf8'))
  const words = Object.keys(tokenizer.model.vocab).filter((word) => /^[a-z]{4,}$/.test(word))
  let state = 20
  const word = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return words[state % words.length] ?? ''
  }
  const text = (length: number) => Array.from({ length }, word).join(' ')
  const texts: Texts = {}
  for (const length of LENGTHS) {
    const query = text(QUERY_WORDS)
    texts[length] = Array.from({ length: count }, () => [query, text(length - QUERY_WORDS - 3)])
  }
  await writeFile(file, JSON.stringify(texts))
}

async function open(folder: string, dtype: Dtype, device: Device): Promise<Model> {
  return await openModel(folder, { dtype, device, cacheDir: CACHE, allowHub: false })
}

async function encoded(model: Model, pairs: Pairs): Promise<EncodedPair[]> {
  const settings = { maxTokens: model.maxTokens, truncation: 'longest_first', cacheTokens: 0 } as const
  const encoder = new PairEncoder(await loadTokenizer(model.folder), settings)
  return pairs.map(([query, document]) => encoder.encode(query, document))
}

function engineOptions(device: Device, more: Partial<EngineOptions> = {}): EngineOptions {
  const threads = availableParallelism()
  return { device, threads, calibrate: false, callTimeoutMs: 120_000, cacheDir: CACHE, log, ...more }
}

/** All pairs through the batcher, as a worker does it. */
async function scored(model: Model, pairs: readonly EncodedPair[], options: EngineOptions): Promise<Float32Array> {
  const engine = await createEngine(model, options)
  try {
    const { padId, usesTokenTypes: withTypes } = model
    const settings = { padId, withTypes, maxEntryAgeMs: 1000, now: Date.now, observe: () => undefined }
    const request = { pairs, priority: 0, deadlineAt: null, signal: new AbortController().signal }
    return (await new Batcher(engine, settings).score(request)).logits
  } finally {
    await engine.close()
  }
}

async function comparedPairs(textsFile: string): Promise<[string, Pairs][]> {
  const texts = JSON.parse(await readFile(textsFile, 'utf8')) as Texts
  const all = Object.entries(texts).map(([length, pairs]): [string, Pairs] => [length, pairs.slice(0, COMPARED)])
  // A device that is slow beyond measuring shows with one pair whether it computes right.
  return sizes().batchTokens ? all.slice(0, 1).map(([length, pairs]) => [length, pairs.slice(0, 1)]) : all
}

/** FILE, and the texts beside it, by the name that bench/gpu.sh gives them. */
async function writeReference(file: string, names: string[]): Promise<void> {
  const reference: Reference = {}
  for (const name of names) {
    const model = await open(name, 'fp32', 'cpu')
    const logits: Record<string, number[]> = {}
    for (const [length, pairs] of await comparedPairs(join(file, '../texts.json')))
      logits[length] = [
        ...(await scored(model, await encoded(model, pairs), engineOptions('cpu', { batchTokens: 512 }))),
      ]
    reference[name] = logits
  }
  await writeFile(file, JSON.stringify(reference))
}

async function compare(device: Device, file: string): Promise<void> {
  const tried = await tryDevice(device)
  row({ what: 'device', ...tried })
  if (tried.fault !== undefined) throw new Error(`${device}: ${tried.fault}`)
  const reference = JSON.parse(await readFile(file, 'utf8')) as Reference
  const compared = await comparedPairs(join(file, '../texts.json'))
  for (const [name, logits] of Object.entries(reference))
    for (const dtype of tried.halves ? (['fp32', 'fp16'] as const) : (['fp32'] as const)) {
      const model = await open(name, dtype, device)
      let [far, spread] = [0, 0]
      for (const [length, pairs] of compared) {
        const wanted = logits[length] ?? []
        const found = await scored(model, await encoded(model, pairs), engineOptions(device, sizes()))
        far = Math.max(far, ...Array.from(found, (logit, i) => Math.abs(logit - (wanted[i] ?? Number.NaN))))
        spread = Math.max(spread, Math.max(...wanted) - Math.min(...wanted))
      }
      // Of random texts, whose scores lie close together: a share of their spread says more than a distance.
      const equal = far < (dtype === 'fp32' ? 1e-3 : 2e-2) * Math.max(1, spread)
      row({ what: 'correct', model: name, dtype, device, farthest: far, spread, equal })
    }
}

/** RANKMILL_GPU_TOKENS: a fixed number of tokens a call, for devices that are slow beyond measuring. */
function sizes(): Partial<EngineOptions> {
  const tokens = Number(process.env['RANKMILL_GPU_TOKENS'] ?? 0)
  return tokens ? { batchTokens: tokens } : {}
}

/** A bare session in this process, then Rankmill's engine with one and two sessions, on the same batches; then its texts. */
async function speed(device: Device, dtype: Dtype, folder: string, textsFile: string, rest: string[]): Promise<void> {
  const [ms = '300', budgets = '16384,65536', lengths = LENGTHS.join(',')] = rest
  const model = await open(folder, dtype, device)
  const named = { model: model.name.split('/').at(-1), dtype, device }
  const batches = lengths.split(',').map((tokens) => ({
    tokens: Number(tokens),
    counts: budgets.split(',').map((budget) => Math.max(1, Math.floor(Number(budget) / Number(tokens)))),
  }))
  const best = new Map<string, { pairsPerCall: number; pairsPerSecond: number }>()
  const measured = async (what: string, sessions: number, rate: (size: number, length: number) => Promise<number>) => {
    for (const { tokens, counts } of batches) {
      for (const pairsPerCall of counts) {
        try {
          const found = { pairsPerCall, pairsPerSecond: Number((await rate(pairsPerCall, tokens)).toFixed(1)) }
          const key = `${what} ${sessions} ${tokens}`
          if (found.pairsPerSecond > (best.get(key)?.pairsPerSecond ?? 0)) best.set(key, found)
        } catch (error) {
          console.error(`${what} ${named.model} ${dtype} ${pairsPerCall} x ${tokens}: ${(error as Error).message}`)
        }
      }
      const found = best.get(`${what} ${sessions} ${tokens}`)
      if (found) row({ what, ...named, tokens, sessions, ...found })
    }
  }
  // A causal graph takes more than tokens.
  if (!model.causal) await bare(model, device, Number(ms), (rate) => measured('bare', 1, rate))
  const onCpu = device === 'cpu' ? { sessions: Math.min(2, availableParallelism()) } : {}
  for (const sessions of device === 'cpu' ? [onCpu.sessions ?? 1] : [1, 2]) {
    const engine = await createEngine(model, engineOptions(device, { sessions }))
    try {
      const rate = async (size: number, length: number) =>
        (await measureSpeed(engine, size, length, Number(ms), () => performance.now())).pairsPerSecond
      await measured('engine', sessions, rate)
    } finally {
      await engine.close()
    }
  }
  if (!model.causal) await fromTexts(model, device, textsFile, batches, best)
}

/** Calls of one ONNX Runtime session, one after the other, with tensors made before: what the provider itself gives. */
async function bare(
  model: Model,
  device: Device,
  ms: number,
  measured: (rate: (size: number, length: number) => Promise<number>) => Promise<void>,
): Promise<void> {
  const session = await InferenceSession.create(model.modelPath, { executionProviders: [device], logSeverityLevel: 4 })
  await measured(async (size, length) => {
    const { inputIds, attentionMask } = syntheticBatch(size, length)
    const all = { input_ids: inputIds, attention_mask: attentionMask, token_type_ids: new BigInt64Array(size * length) }
    const feeds: Record<string, Tensor> = {}
    for (const [name, ids] of Object.entries(all))
      if (session.inputNames.includes(name)) feeds[name] = new Tensor('int64', ids, [size, length])
    await session.run(feeds)
    const startedAt = performance.now()
    let calls = 0
    for (; calls === 0 || performance.now() - startedAt < ms; calls++) await session.run(feeds)
    return (calls * size) / ((performance.now() - startedAt) / 1000)
  })
  await session.release()
}

/** Texts to scores in one process, tokenising counted, in the best shape that was found: what sentence-transformers is asked for. */
async function fromTexts(
  model: Model,
  device: Device,
  textsFile: string,
  batches: readonly { tokens: number; counts: number[] }[],
  best: ReadonlyMap<string, { pairsPerCall: number; pairsPerSecond: number }>,
): Promise<void> {
  const texts = JSON.parse(await readFile(textsFile, 'utf8')) as Texts
  for (const { tokens } of batches) {
    const pairs = texts[tokens]
    const [one, two] = [best.get(`engine 1 ${tokens}`), best.get(`engine 2 ${tokens}`)]
    if (!pairs || !(one ?? two)) continue
    const sessions = (two?.pairsPerSecond ?? 0) > (one?.pairsPerSecond ?? 0) ? 2 : 1
    const pairsPerCall = (sessions === 2 ? two : one)?.pairsPerCall ?? 1
    const shape = { sessions, batchPairs: pairsPerCall, batchTokens: pairsPerCall * (tokens + 8) }
    const engine = await createEngine(model, engineOptions(device, shape))
    try {
      const { padId, usesTokenTypes: withTypes } = model
      const settings = { padId, withTypes, maxEntryAgeMs: 1000, now: Date.now, observe: () => undefined }
      const batcher = new Batcher(engine, settings)
      const score = async (some: Pairs) =>
        batcher.score({
          pairs: await encoded(model, some),
          priority: 0,
          deadlineAt: null,
          signal: AbortSignal.timeout(60_000),
        })
      const { logits } = await score(pairs.slice(0, pairsPerCall * engine.slots))
      const startedAt = performance.now()
      await score(pairs)
      const pairsPerSecond = Number((pairs.length / ((performance.now() - startedAt) / 1000)).toFixed(1))
      const scores = [...logits.slice(0, 8)].map((logit) => Number(logit.toFixed(5)))
      row({
        what: 'texts',
        model: model.name.split('/').at(-1),
        dtype: model.dtype,
        device,
        tokens,
        sessions,
        pairsPerCall,
        pairsPerSecond,
        scores,
      })
    } finally {
      await engine.close()
    }
  }
}

/** Requests of 100 pairs of 200 tokens through Redis to so many worker processes on one device. */
async function workers([
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
      const worker = fork(fileURLToPath(import.meta.url), { env })
      started.push(worker)
      const [said] = await Promise.race([once(worker, 'message'), once(worker, 'exit')])
      if (said !== 'ready') throw new Error(`a worker ended: ${said}`)
    }
    const pairs = (JSON.parse(await readFile(textsFile, 'utf8')) as Texts)['200'] ?? []
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
async function serve(): Promise<void> {
  const options = resolveOptions(JSON.parse(process.env['BENCH_SETTINGS'] ?? '{}') as Partial<Options>)
  const worker = await RerankWorker.start(options, modelSource(options))
  const stop = () => void worker.close(true).then(() => process.exit(0))
  process.on('disconnect', stop)
  process.on('SIGTERM', stop)
  process.send?.('ready')
}
