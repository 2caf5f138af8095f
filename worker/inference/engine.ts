/** What runs batches: the interface between the batcher and the inference processes. */

import type { Device } from '../model/model.js'

/** What a stage of a model hands to the next, by name; float32, row-major. */
export type States = Readonly<Record<string, Float32Array>>

/** One model call, assembled on the main thread. */
export interface Batch {
  /** Pairs. */
  readonly size: number
  /** Padded tokens of each pair. */
  readonly length: number
  /** [size, length], row-major, as the other two. */
  readonly inputIds: BigInt64Array
  /** 1 for tokens, 0 for padding. */
  readonly attentionMask: BigInt64Array
  /** 0 for the query, 1 for the document; null for models without them. */
  readonly tokenTypeIds: BigInt64Array | null
  /** [size]: tokens at the beginning of each pair that others have as well, whose work may be kept for them. */
  readonly prefixes?: Int32Array | undefined
  /** Stage of a model with exits, from 0; without it the whole model runs. */
  readonly stage?: number | undefined
  /** What the stage before gave for these pairs, the tokens' axis padded with zeros. */
  readonly states?: States | undefined
}

export interface BatchOutput {
  /**
   * [size]; of heads with two logits the second minus the first. Of a bi-encoder [size, dimensions], row-major:
   * embeddings of length 1.
   */
  readonly logits: Float32Array
  /** Of a stage with another behind it: what that one needs, padded as the batch is. */
  readonly states?: States
  /** Time of the model call alone. */
  readonly inferenceMs: number
}

/** How the CPU is used: decided once, by calibration or by options. */
export interface BatchShape {
  readonly sessions: number
  readonly threadsPerSession: number
  /** Pairs in one model call at most. */
  readonly batchPairs: number
  /** Padded tokens in one model call at most; one pair alone may have more. */
  readonly batchTokens: number
}

export interface InferenceEngine {
  /** How many batches may be under way at once: one that runs and one prepared for each session. */
  readonly slots: number
  readonly sessions: number
  readonly shape: BatchShape
  /** Tokens of the longest beginning whose work is kept for the pairs that share it (`prefixes`); absent: none is. */
  readonly keptTokens?: number
  /** Where it runs; absent of engines without a model. */
  readonly device?: Device
  /**
   * Scores a batch in the least busy session.
   *
   * @throws RankmillError `inference_failed` (this batch cannot be scored), `out_of_memory`, `worker_lost` (the
   *   process died; another takes its place), `closed`
   */
  run(batch: Batch): Promise<BatchOutput>
  /** Share of the sessions' time that was busy since the last call, 0 to 1. */
  busyRatio(): number
  /** Ends the processes, in a bounded time. */
  close(): Promise<void>
}

/** The part of the logger that the engine uses. */
export interface EngineLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
}

/** How an engine is started. */
export interface EngineOptions {
  readonly device: Device
  /** CPU threads of this process for inference, shared by all sessions. */
  readonly threads: number
  /** Given ones are kept, the others are measured; 0 is the same as not given. */
  readonly sessions?: number
  readonly batchPairs?: number
  readonly batchTokens?: number
  /** Whether to measure what is not given, rather than to assume it. */
  readonly calibrate: boolean
  /** No measurement is begun later after the first one, and none waited for; absent: `CALIBRATE_MS`. */
  readonly calibrateMs?: number
  /** A call that takes longer is given up. */
  readonly callTimeoutMs: number
  /** What a session of a causal model keeps of beginnings that pairs have in common; 0: nothing. */
  readonly prefixCacheBytes?: number
  /** What calibration found is kept here for the next start. */
  readonly cacheDir: string
  readonly log: EngineLog
}
