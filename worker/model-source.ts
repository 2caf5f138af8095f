/** Real models for a worker: opened from a folder or the hub, run by ONNX Runtime in threads. */
import { availableParallelism } from 'node:os'
import { makeLogger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { createEngine } from './inference/thread-pool.js'
import { openModel } from './model/model.js'
import type { ScorerSource } from './scorers.js'
import { loadTokenizer } from './tokenize/tokenizer.js'

export function modelSource(options: Options): ScorerSource {
  const log = makeLogger(options.logLevel, 'rankmill-inference')
  const { cacheDir, device, threads, sessions, batchPairs, batchTokens, calibrate } = options
  return {
    openModel: (reference, dtype) => openModel(reference, { dtype, device, cacheDir, allowHub: true }),
    loadTokenizer: (model) => loadTokenizer(model.folder),
    createEngine: (model) =>
      createEngine(model, {
        device: device === 'auto' ? 'cpu' : device,
        threads: threads || availableParallelism(),
        ...(sessions ? { sessions } : {}),
        ...(batchPairs ? { batchPairs } : {}),
        ...(batchTokens ? { batchTokens } : {}),
        calibrate,
        cacheDir,
        log,
      }),
  }
}
