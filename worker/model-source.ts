/** Real models for a worker: opened from a folder or the hub, run by ONNX Runtime in processes. */
import { availableParallelism } from 'node:os'
import { type Logger, makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { Batcher } from './batching/batcher.js'
import { BiEncoder } from './bi-encoder.js'
import { createEngine } from './inference/session-pool.js'
import { openBiEncoder } from './model/bi-encoder-model.js'
import { openBound } from './model/bound-files.js'
import { openModel } from './model/model.js'
import type { FilterParts, ScorerSource } from './scorers.js'
import type { EncoderSettings, TextRunner } from './text/text-tasks.js'
import { TextThreads } from './text/text-threads.js'
import { loadTokenizer } from './tokenize/tokenizer.js'

export function modelSource(options: Options): ScorerSource {
  const log = makeLogger(options.logLevel, 'rankmill-inference')
  const { cacheDir, device, threads, sessions, batchPairs, batchTokens, calibrate, callTimeoutMs, prefixCacheMb } =
    options
  const place = {
    device: device === 'auto' ? 'cpu' : device,
    threads: threads || availableParallelism(),
    cacheDir,
    callTimeoutMs,
    log,
  } as const
  return {
    openModel: (reference, dtype) => openModel(reference, { dtype, device, cacheDir, allowHub: true }),
    loadTokenizer: (model) => openBound(model.files ?? [], () => loadTokenizer(model.folder)),
    openTexts: (now) => openTexts(options, now),
    createEngine: (model) =>
      createEngine(model, {
        ...place,
        ...(sessions ? { sessions } : {}),
        ...(batchPairs ? { batchPairs } : {}),
        ...(batchTokens ? { batchTokens } : {}),
        calibrate,
        prefixCacheBytes: prefixCacheMb * 2 ** 20,
      }),
    openFilter: (reference, parts) => openFilter(reference, options, place, parts),
  }
}

/** A bi-encoder by itself, with a thread of its own for texts; it remembers nothing. */
export async function openEncoder(
  reference: string,
  options: Options,
  place: { threads: number; log: Logger },
): Promise<BiEncoder> {
  const texts = openTexts(options, Date.now)
  try {
    return await openFilter(reference, options, place, { cache: undefined, texts, ownsTexts: true, now: Date.now })
  } catch (error) {
    await texts.close()
    throw error
  }
}

function openTexts({ textThreads, textTimeoutMs, maxEntryAgeMs }: Options, now: () => number): TextRunner {
  // One keeps the sessions of four cores fed, and its cache of tokenised passages is of use to all of a request.
  const threads = textThreads || Math.ceil(availableParallelism() / 4)
  return new TextThreads({ threads, maxAgeMs: maxEntryAgeMs, taskTimeoutMs: textTimeoutMs, now })
}

async function openFilter(
  reference: string,
  { device, cacheDir, maxEntryAgeMs, callTimeoutMs }: Options,
  { threads, log }: { threads: number; log: Logger },
  { cache, texts, ownsTexts, now }: FilterParts,
): Promise<BiEncoder> {
  const model = await openBiEncoder(reference, { dtype: 'auto', device, cacheDir, allowHub: true })
  const { folder, maxTokens, padId, usesTokenTypes: withTypes } = model
  const encoder: EncoderSettings = {
    folder,
    savedAs: 'SentenceTransformer',
    files: model.files ?? [],
    maxTokens,
    truncation: 'longest_first',
    cacheTokens: 0,
  }
  const signal = new AbortController().signal
  await texts.run({ kind: 'open', encoder }, { priority: 0, deadlineAt: null }, signal)
  // The options of batches are those of the model that scores; a filter is small and does with the defaults.
  const engine = await createEngine(model, {
    device: device === 'auto' ? 'cpu' : device,
    threads,
    cacheDir,
    callTimeoutMs,
    log,
    calibrate: false,
  })
  const batcher = new Batcher(engine, { padId, withTypes, maxEntryAgeMs, now, observe: () => undefined })
  return new BiEncoder({ model, engine, batcher, texts, ownsTexts, encoder, cache })
}
