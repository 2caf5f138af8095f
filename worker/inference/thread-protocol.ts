/** What the main thread and an inference thread say to each other. */
import type { ErrorBody } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Device, Model } from '../model/model.js'
import type { Batch, BatchOutput } from './engine.js'

/** Given to a thread when it starts (workerData). */
export interface ThreadData {
  readonly model: Model | BiEncoderModel
  readonly device: Device
  /** CPU threads of its session. */
  readonly threads: number
}

/** Main thread to inference thread; `close` is the last. */
export type ToThread = { readonly id: number; readonly batch: Batch } | 'close' | 'kill'

/** Inference thread to main thread; `ready` or `unusable` is the first. */
export type FromThread =
  | { readonly type: 'ready' }
  | { readonly type: 'unusable'; readonly error: ErrorBody }
  | { readonly type: 'scored'; readonly id: number; readonly output: BatchOutput }
  | { readonly type: 'failed'; readonly id: number; readonly error: ErrorBody }
