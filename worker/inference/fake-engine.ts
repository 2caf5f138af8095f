/** An engine without a model, for speed tests of the queue's path: scores are a cheap hash of the token ids. */
import { RankmillError } from '../../shared/errors.js'
import type { Batch, BatchOutput, BatchShape, InferenceEngine } from './engine.js'
import { packBatch } from './packed-batch.js'

const SHAPE: BatchShape = { sessions: 1, threadsPerSession: 1, batchPairs: 1024, batchTokens: 1 << 20 }

/** Answers at once, in large batches; the same pair always gets the same score, between -4 and 4. */
export class FakeEngine implements InferenceEngine {
  readonly shape: BatchShape
  #closed = false

  constructor(shape: BatchShape = SHAPE) {
    this.shape = shape
  }

  get sessions(): number {
    return this.shape.sessions
  }

  get slots(): number {
    return this.shape.sessions * 2
  }

  async run(batch: Batch): Promise<BatchOutput> {
    if (this.#closed) throw new RankmillError('closed', 'the engine is closed')
    const { size, length, ids, mask } = packBatch(batch)
    const logits = new Float32Array(size)
    for (let row = 0; row < size; row++) {
      let hash = 0
      const end = (row + 1) * length
      for (let at = row * length; at < end && mask[at] === 1; at++) hash = (Math.imul(hash, 31) + (ids[at] ?? 0)) | 0
      logits[row] = (hash >>> 0) / 2 ** 29 - 4
    }
    return { logits, inferenceMs: 0 }
  }

  busyRatio(): number {
    return 0
  }

  async close(): Promise<void> {
    this.#closed = true
  }
}
