/** A model in use: what the stages need of it. */
import type { LongDocuments } from '../../shared/protocol/strategy.js'
import type { Batcher } from '../batching/batcher.js'
import type { InferenceEngine } from '../inference/engine.js'
import type { Model } from '../model/model.js'
import type { ModelExit } from '../model/model-exits.js'
import type { DocumentEncoder } from './encode-documents.js'
import type { ScoringContext } from './score-cache.js'

export interface Scorer extends DocumentEncoder {
  /** What requests call its model. */
  readonly name: string
  readonly model: Model
  readonly engine: InferenceEngine
  readonly batcher: Batcher
  /** What makes its scores comparable bit by bit: hash of the model's fingerprint and of all options that shape them. */
  readonly space: string
  /** @param exit the model's exit that all are scored by, if not by the whole model */
  context(maxTokensPerDoc: number | null, longDocuments: LongDocuments, exit?: ModelExit): ScoringContext
  /** Logit to relevance score. */
  activate(logit: number): number
}
