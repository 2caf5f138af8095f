/** Which batch shape is best here. */
import type { Model } from '../model/model.js'
import type { BatchShape } from './engine.js'
import type { SessionThread } from './session-thread.js'
import type { EngineOptions } from './thread-pool.js'

export async function chooseShape(_model: Model, options: EngineOptions): Promise<{ shape: BatchShape; threads?: SessionThread[] }> {
  const sessions = options.sessions || options.threads
  const batchPairs = options.batchPairs || 4
  return { shape: { sessions, threadsPerSession: Math.max(1, Math.floor(options.threads / sessions)), batchPairs, batchTokens: options.batchTokens || batchPairs * 256 } }
}
