/** What the worker and an inference process say to each other. */
import type { ErrorBody } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Device, Model } from '../model/model.js'
import type { CausalAbilities } from './causal-rows.js'
import type { Batch, BatchOutput } from './engine.js'

/** What a session is opened with. */
export interface SessionData {
  readonly model: Model | BiEncoderModel
  readonly device: Device
  /** CPU threads of its session. */
  readonly threads: number
  /** Of a causal model: what it keeps of beginnings that pairs have in common; 0: nothing. */
  readonly prefixCacheBytes?: number
}

/** A batch on its way: 6 bytes a token instead of 24. */
export interface PackedBatch extends Omit<Batch, 'inputIds' | 'attentionMask' | 'tokenTypeIds'> {
  readonly ids: Int32Array
  readonly mask: Uint8Array
  readonly types: Uint8Array | null
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

/** Token ids and flags fit into the lower halves; all platforms of ONNX Runtime are little-endian. */
export function packBatch({ inputIds, attentionMask, tokenTypeIds, ...rest }: Batch): PackedBatch {
  const ids = new Int32Array(inputIds.length)
  const halves = new Int32Array(inputIds.buffer, inputIds.byteOffset, 2 * inputIds.length)
  for (let i = 0; i < ids.length; i++) ids[i] = halves[2 * i] ?? 0
  return { ...rest, ids, mask: narrow(attentionMask), types: tokenTypeIds && narrow(tokenTypeIds) }
}

export function unpackBatch({ ids, mask, types, ...rest }: PackedBatch): Batch {
  return { ...rest, inputIds: widen(ids), attentionMask: widen(mask), tokenTypeIds: types && widen(types) }
}

function narrow(flags: BigInt64Array): Uint8Array {
  const narrowed = new Uint8Array(flags.length)
  const bytes = new Uint8Array(flags.buffer, flags.byteOffset, 8 * flags.length)
  for (let i = 0; i < narrowed.length; i++) narrowed[i] = bytes[8 * i] ?? 0
  return narrowed
}

function widen(values: Int32Array | Uint8Array): BigInt64Array {
  const widened = new BigInt64Array(values.length)
  const halves = new Int32Array(widened.buffer)
  for (let i = 0; i < values.length; i++) halves[2 * i] = values[i] ?? 0
  return widened
}
