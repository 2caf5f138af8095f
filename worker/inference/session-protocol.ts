/** What the worker and an inference process say to each other. */
import type { ErrorBody } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Device, Model } from '../model/model.js'
import type { CausalAbilities } from './causal-rows.js'
import type { BatchOutput } from './engine.js'
import type { PackedBatch } from './packed-batch.js'

/** What a session is opened with. */
export interface SessionData {
  readonly model: Model | BiEncoderModel
  readonly device: Device
  /** CPU threads of its session. */
  readonly threads: number
  /** Of a causal model: what it keeps of beginnings that pairs have in common; 0: nothing. */
  readonly prefixCacheBytes?: number
}

/** To the process; `open` is the first, `close` the last. */
export type ToProcess = { readonly open: SessionData } | { readonly id: number; readonly batch: PackedBatch } | 'close'

/** From the process; `ready` or `unusable` is the first, and `unusable` comes later where the device is lost. */
export type FromProcess =
  | {
      readonly type: 'ready'
      readonly causal?: CausalAbilities | undefined
      readonly keptTokens?: number | undefined
    }
  | { readonly type: 'unusable'; readonly error: ErrorBody }
  | { readonly type: 'scored'; readonly id: number; readonly output: BatchOutput }
  | { readonly type: 'failed'; readonly id: number; readonly error: ErrorBody }
