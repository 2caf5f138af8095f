/** Real models for a worker: opened from a folder or the hub, run by ONNX Runtime in processes. */
import { availableParallelism } from 'node:os'
import { type Logger, makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { Batcher } from './batching/batcher.js'
import { BiEncoder } from './bi-encoder.js'
import { chooseDevice, type TriedDevice } from './inference/device.js'
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
  const { cacheDir, threads, sessions, batchPairs, batchTokens, calibrate, calibrateMs, callTimeoutMs, prefixCacheMb } =
    options
  let chosen: Promise<TriedDevice> | undefined
  // Tried when first needed, and once: what a machine has does not change while a process lives.
  const device = () => {
    chosen ??= chooseDevice(options.device, log)
    return chosen
  }
  const place = { threads: threads || availableParallelism(), cacheDir, callTimeoutMs, log } as const
  return {
    openModel: async (reference, dtype) =>
      openModel(reference, { dtype, ...(await device()), cacheDir, allowHub: true }),
    loadTokenizer: (model) => openBound(model.files ?? [], () => loadTokenizer(model.folder)),
    openTexts: (now) => openTexts(options, now),
    createEngine: async (model) =>
      createEngine(model, {
        ...place,
        device: (await device()).device,
        ...(sessions ? { sessions } : {}),
        ...(batchPairs ? { batchPairs } : {}),
        ...(batchTokens ? { batchTokens } : {}),
        calibrate,
        calibrateMs,
        prefixCacheBytes: prefixCacheMb * 2 ** 20,
      }),
    openFilter: async (reference, parts) => openFilter(reference, options, await device(), place, parts),
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
    const device = await chooseDevice(options.device, place.log)
    const parts = { cache: undefined, texts, ownsTexts: true, now: Date.now }
    return await openFilter(reference, options, device, place, parts)
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
  { cacheDir, maxEntryAgeMs, callTimeoutMs }: Options,
  { device, halves }: TriedDevice,
  { threads, log }: { threads: number; log: Logger },
  { cache, texts, ownsTexts, now }: FilterParts,
): Promise<BiEncoder> {
  const model = await openBiEncoder(reference, { dtype: 'auto', device, halves, cacheDir, allowHub: true })
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
    device,
    threads,
    cacheDir,
    callTimeoutMs,
    log,
    calibrate: false,
  })
  const batcher = new Batcher(engine, { padId, withTypes, maxEntryAgeMs, now, observe: () => undefined })
  return new BiEncoder({ model, engine, batcher, texts, ownsTexts, encoder, cache })
}
