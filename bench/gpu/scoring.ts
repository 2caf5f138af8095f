/** What the steps share: models, pairs as tokens, an engine, rows. */
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Batcher } from '../../worker/batching/batcher.js'
import type { EngineOptions, InferenceEngine } from '../../worker/inference/engine.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { type Device, type Dtype, type Model, openModel } from '../../worker/model/model.js'
import { type EncodedPair, PairEncoder } from '../../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../../worker/tokenize/tokenizer.js'
import type { Pairs } from './texts.js'

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const CACHE = join(ROOT, '.cache/gpu')
const log = {
  info: () => undefined,
  warn: (fields: object, text: string) => console.error(text, JSON.stringify(fields)),
}

/** A line of JSON for the table. */
export function row(fields: object): void {
  console.log(JSON.stringify(fields))
}

export async function open(folder: string, dtype: Dtype, device: Device): Promise<Model> {
  return await openModel(folder, { dtype, device, cacheDir: CACHE, allowHub: false })
}

export async function encoded(model: Model, pairs: Pairs): Promise<EncodedPair[]> {
  const settings = { maxTokens: model.maxTokens, truncation: 'longest_first', cacheTokens: 0 } as const
  const encoder = new PairEncoder(await loadTokenizer(model.folder), settings)
  return pairs.map(([query, document]) => encoder.encode(query, document))
}

export function engineOptions(device: Device, more: Partial<EngineOptions> = {}): EngineOptions {
  const threads = availableParallelism()
  return { device, threads, calibrate: false, callTimeoutMs: 120_000, cacheDir: CACHE, log, ...more }
}

/** All pairs through the batcher, as a worker does it. */
export async function scored(
  model: Model,
  pairs: readonly EncodedPair[],
  options: EngineOptions,
): Promise<Float32Array> {
  const engine = await createEngine(model, options)
  try {
    const request = { pairs, priority: 0, deadlineAt: null, signal: new AbortController().signal }
    return (await batcherOf(engine, model).score(request)).logits
  } finally {
    await engine.close()
  }
}

export function batcherOf(engine: InferenceEngine, { padId, usesTokenTypes: withTypes }: Model): Batcher {
  return new Batcher(engine, { padId, withTypes, maxEntryAgeMs: 1000, now: Date.now, observe: () => undefined })
}

/** RANKMILL_GPU_TOKENS: a fixed number of tokens a call, for devices that are slow beyond measuring. */
export function sizes(): Partial<EngineOptions> {
  const tokens = Number(process.env['RANKMILL_GPU_TOKENS'] ?? 0)
  return tokens ? { batchTokens: tokens } : {}
}
