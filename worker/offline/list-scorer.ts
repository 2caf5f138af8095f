/** Scores lists of documents with one model, straight through its engine: no queue, no cache, nobody else in the batches. */
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { Batcher } from '../batching/batcher.js'
import type { InferenceEngine } from '../inference/engine.js'
import type { Model } from '../model/model.js'
import { modelSource } from '../model-source.js'
import { type EncodedPair, PairEncoder } from '../tokenize/pair-encoder.js'
import { PromptEncoder } from '../tokenize/prompt-encoder.js'

export interface ScoredList {
  /** One a document, in their order: what requests get as relevance_score. */
  readonly scores: readonly number[]
  /** Tokenising and inference. */
  readonly ms: number
}

export class ListScorer {
  readonly model: Model
  readonly #engine: InferenceEngine
  readonly #encoder: PairEncoder | PromptEncoder
  readonly #signal: AbortSignal

  private constructor(
    model: Model,
    engine: InferenceEngine,
    encoder: PairEncoder | PromptEncoder,
    signal: AbortSignal,
  ) {
    this.model = model
    this.#engine = engine
    this.#encoder = encoder
    this.#signal = signal
  }

  /**
   * @param folder the model's
   * @throws RankmillError as opening a model and starting an engine do
   */
  static async open(folder: string, options: Options, signal: AbortSignal): Promise<ListScorer> {
    const source = modelSource(options)
    const model = await source.openModel(folder, options.dtype)
    const tokenizer = await source.loadTokenizer(model)
    const maxTokens = Math.min(options.maxTokens || model.maxTokens, model.maxTokens)
    const { truncation } = options
    const limits = { maxTokens, truncation }
    const encoder = model.prompt
      ? new PromptEncoder(tokenizer, model.prompt, { ...limits, instruction: null })
      : new PairEncoder(tokenizer, { ...limits, cacheTokens: 0, queryPrompt: model.queryPrompt ?? '' })
    return new ListScorer(model, await source.createEngine(model), encoder, signal)
  }

  /** @throws RankmillError as a job would end; the signal's reason */
  async score(query: string, documents: readonly string[]): Promise<ScoredList> {
    const startedAt = performance.now()
    const pairs = documents.map((document) => this.#encoder.encode(query, document))
    const logits = await this.#logits(this.#engine, pairs)
    const scores = this.model.activation === 'sigmoid' ? logits.map((logit) => 1 / (1 + Math.exp(-logit))) : logits
    return { scores, ms: performance.now() - startedAt }
  }

  /** What a score is before the activation, one a document. Throws as `score` does. */
  logits(query: string, documents: readonly string[]): Promise<number[]> {
    return this.#logits(
      this.#engine,
      documents.map((document) => this.#encoder.encode(query, document)),
    )
  }

  /**
   * How far a pair's logit moves with its neighbours: the greatest difference between each document alone, unpadded, and
   * all of them in one call, padded to the longest.
   */
  async moved(query: string, documents: readonly string[]): Promise<number> {
    const pairs = documents.map((document) => this.#encoder.encode(query, document))
    const longest = Math.max(...pairs.map(({ ids }) => ids.length))
    const together = await this.#logits(shaped(this.#engine, pairs.length, pairs.length * longest), pairs)
    const alone = await this.#logits(shaped(this.#engine, 1, longest), pairs)
    return Math.max(0, ...alone.map((logit, i) => Math.abs(logit - (together[i] ?? Number.NaN))))
  }

  async close(): Promise<void> {
    await this.#engine.close()
  }

  async #logits(engine: InferenceEngine, pairs: readonly EncodedPair[]): Promise<number[]> {
    const batcher = new Batcher(engine, {
      padId: this.model.padId,
      withTypes: this.model.usesTokenTypes,
      maxEntryAgeMs: Number.MAX_SAFE_INTEGER,
      now: Date.now,
      observe: () => undefined,
    })
    try {
      const scored = await batcher.score({ pairs, priority: 0, deadlineAt: null, signal: this.#signal })
      return [...scored.logits]
    } catch (error) {
      this.#signal.throwIfAborted()
      throw RankmillError.from(error)
    }
  }
}

/** The same sessions with batches of another shape. */
function shaped(engine: InferenceEngine, batchPairs: number, batchTokens: number): InferenceEngine {
  return {
    sessions: engine.sessions,
    slots: engine.slots,
    shape: { ...engine.shape, batchPairs, batchTokens },
    run: (batch) => engine.run(batch),
    busyRatio: () => engine.busyRatio(),
    close: () => engine.close(),
  }
}
