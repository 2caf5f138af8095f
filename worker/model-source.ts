/** Real models for a worker: opened from a folder or the hub, run by ONNX Runtime in threads. */
import { availableParallelism } from 'node:os'
import { makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { BiEncoder } from './bi-encoder.js'
import { createEngine } from './inference/thread-pool.js'
import { openBiEncoder } from './model/bi-encoder-model.js'
import { openBound } from './model/bound-files.js'
import { openModel } from './model/model.js'
import type { EmbeddingCache } from './pipeline/embedding-cache.js'
import type { ScorerSource } from './scorers.js'
import { loadTokenizer } from './tokenize/tokenizer.js'

export function modelSource(options: Options): ScorerSource {
  const log = makeLogger(options.logLevel, 'rankmill-inference')
  const { cacheDir, device, threads, sessions, batchPairs, batchTokens, calibrate } = options
  const place = {
    device: device === 'auto' ? 'cpu' : device,
    threads: threads || availableParallelism(),
    cacheDir,
    log,
  } as const
  return {
    openModel: (reference, dtype) => openModel(reference, { dtype, device, cacheDir, allowHub: true }),
    loadTokenizer: (model) => openBound(model.files ?? [], () => loadTokenizer(model.folder)),
    createEngine: (model) =>
      createEngine(model, {
        ...place,
        ...(sessions ? { sessions } : {}),
        ...(batchPairs ? { batchPairs } : {}),
        ...(batchTokens ? { batchTokens } : {}),
        calibrate,
      }),
    openFilter: (reference, cache) => openEncoder(reference, options, place, cache),
  }
}

/** A bi-encoder for passages and queries. @param cache undefined: nothing is remembered */
export async function openEncoder(
  reference: string,
  { device, cacheDir }: Options,
  { threads, log }: { threads: number; log: ReturnType<typeof makeLogger> },
  cache?: EmbeddingCache,
): Promise<BiEncoder> {
  const model = await openBiEncoder(reference, { dtype: 'auto', device, cacheDir, allowHub: true })
  const [tokenizer, engine] = await Promise.all([
    openBound(model.files ?? [], () => loadTokenizer(model.folder, 'SentenceTransformer')),
    // The options of batches are those of the model that scores; a filter is small and does with the defaults.
    createEngine(model, { device: device === 'auto' ? 'cpu' : device, threads, cacheDir, log, calibrate: false }),
  ])
  return new BiEncoder(model, tokenizer, engine, cache)
}
