/** What the worker and an inference process say to each other. */
import type { ErrorBody } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Device, Model } from '../model/model.js'
import type { Batch, BatchOutput } from './engine.js'

/** What a session is opened with. */
export interface SessionData {
  readonly model: Model | BiEncoderModel
  readonly device: Device
  /** CPU threads of its session. */
  readonly threads: number
}

/** To the process; `open` is the first, `close` the last. */
export type ToProcess = { readonly open: SessionData } | { readonly id: number; readonly batch: Batch } | 'close'

/** From the process; `ready` or `unusable` is the first. */
export type FromProcess =
  | { readonly type: 'ready' }
  | { readonly type: 'unusable'; readonly error: ErrorBody }
  | { readonly type: 'scored'; readonly id: number; readonly output: BatchOutput }
  | { readonly type: 'failed'; readonly id: number; readonly error: ErrorBody }
