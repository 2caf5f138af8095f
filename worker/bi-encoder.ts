/** A bi-encoder in use: texts to embeddings, batched, each passage embedded once as long as the cache remembers it. */
import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { assembleBatch } from './batching/batch-assembly.js'
import { type Embedding, product, quantise } from './embedding.js'
import type { InferenceEngine } from './inference/engine.js'
import type { BiEncoderModel } from './model/bi-encoder-model.js'
import type { EmbeddingCache } from './pipeline/embedding-cache.js'
import type { Candidate } from './pipeline/load-candidates.js'
import type { Looked } from './pipeline/prefilter.js'
import type { Tokenizer } from './tokenize/tokenizer.js'

/** It tokenises on the event loop; after so long it lets others go first. */
const SLICE_MS = 8
/** Written to the hash of what embeddings depend on: another number whenever they are made in another way. */
const FORMAT = 1

interface Waiting {
  readonly place: number
  readonly ids: Int32Array
}

const NOTHING: Embedding = { scale: 0, values: new Int8Array() }

export interface EmbeddedPassages {
  /** In the passages' order. */
  readonly embeddings: readonly Embedding[]
  /** Texts that went through the model. */
  readonly computed: number
}

export class BiEncoder {
  readonly model: BiEncoderModel
  /** Hash of all that a passage's embedding depends on beside its text. */
  readonly context: string
  readonly #tokenizer: Tokenizer
  readonly #engine: InferenceEngine
  readonly #cache: EmbeddingCache | undefined

  /** @param cache undefined: every text goes through the model */
  constructor(model: BiEncoderModel, tokenizer: Tokenizer, engine: InferenceEngine, cache?: EmbeddingCache) {
    this.model = model
    this.context = contextOf(model)
    this.#tokenizer = tokenizer
    this.#engine = engine
    this.#cache = cache
  }

  /**
   * Scores are the products of the query's embedding with those of the passages.
   *
   * @throws RankmillError as the engine does; or the signal's reason
   */
  async score(query: string, candidates: readonly Candidate[], signal: AbortSignal): Promise<Looked> {
    const texts = candidates.flatMap(({ document, embedding }) => (embedding ? [] : [document.text]))
    const [[asked], { embeddings, computed }] = await Promise.all([
      this.embed([this.model.prompts.query + query], signal),
      this.passages(texts, signal),
    ])
    const rest = embeddings.values()
    const scores = Float64Array.from(candidates, ({ embedding }) => {
      const known = embedding ?? rest.next().value
      return asked && known ? product(asked, known) : 0
    })
    return { scores, embeddings: { computed, reused: candidates.length - computed } }
  }

  /** Embeddings of passages, from the cache where they are there. */
  async passages(texts: readonly string[], signal: AbortSignal): Promise<EmbeddedPassages> {
    if (texts.length === 0) return { embeddings: [], computed: 0 }
    const distinct = [...new Set(texts)]
    const known = (await this.#cache?.read(this.context, distinct)) ?? []
    const byText = new Map<string, Embedding>()
    const unknown: string[] = []
    distinct.forEach((text, i) => {
      const embedding = known[i]
      if (embedding) byText.set(text, embedding)
      else unknown.push(text)
    })
    const vectors = await this.embed(
      unknown.map((text) => this.model.prompts.passage + text),
      signal,
    )
    const made = new Map(unknown.map((text, i) => [text, quantise(vectors[i] ?? new Float32Array())]))
    for (const [text, embedding] of made) byText.set(text, embedding)
    await this.#cache?.write(this.context, made)
    return { embeddings: texts.map((text) => byText.get(text) ?? NOTHING), computed: unknown.length }
  }

  /** One vector of length 1 for each text, in their order. What is too long is cut at the model's maxTokens. */
  async embed(texts: readonly string[], signal: AbortSignal): Promise<Float32Array[]> {
    const vectors = new Array<Float32Array>(texts.length)
    const waiting: Waiting[] = []
    let sliceEnd = performance.now() + SLICE_MS
    for (const [place, text] of texts.entries()) {
      waiting.push({ place, ids: this.#tokens(text) })
      if (performance.now() > sliceEnd) {
        await setImmediate()
        signal.throwIfAborted()
        sliceEnd = performance.now() + SLICE_MS
      }
    }
    // Longest first: neighbours in length share a call, and the last calls are short ones.
    const batches = this.#cut(waiting.sort((a, b) => b.ids.length - a.ids.length))
    const work = async () => {
      for (let batch = batches.shift(); batch; batch = batches.shift()) {
        signal.throwIfAborted()
        const rows = await this.#run(batch)
        for (const [i, { place }] of batch.entries()) vectors[place] = rows[i] ?? new Float32Array()
      }
    }
    await Promise.all(Array.from({ length: this.#engine.slots }, work))
    return vectors
  }

  close(): Promise<void> {
    return this.#engine.close()
  }

  /** The text between the special tokens that stand around a pair, as around a single text. */
  #tokens(text: string): Int32Array {
    const { before, after } = this.#tokenizer.template
    const { ids } = this.#tokenizer.encode(text, Math.max(0, this.model.maxTokens - before.length - after.length))
    const all = new Int32Array(before.length + ids.length + after.length)
    all.set(before)
    all.set(ids, before.length)
    all.set(after, before.length + ids.length)
    return all
  }

  /** Calls within the shape's bounds, of texts in falling length. */
  #cut(texts: readonly Waiting[]): Waiting[][] {
    const { batchPairs, batchTokens } = this.#engine.shape
    const batches: Waiting[][] = []
    let batch: Waiting[] = []
    for (const text of texts) {
      const longest = batch[0]?.ids.length ?? text.ids.length
      if (batch.length > 0 && (batch.length >= batchPairs || longest * (batch.length + 1) > batchTokens)) {
        batches.push(batch)
        batch = []
      }
      batch.push(text)
    }
    if (batch.length > 0) batches.push(batch)
    return batches
  }

  async #run(texts: readonly Waiting[]): Promise<Float32Array[]> {
    // A text is a pair without its second half.
    const pairs = texts.map(({ ids }) => ({ pair: { ids, secondStart: ids.length, truncated: false } }))
    const batch = assembleBatch(pairs, this.model.padId, this.model.usesTokenTypes)
    const { logits: vectors } = await this.#engine.run(batch)
    const dimensions = vectors.length / texts.length
    // Copies, so that one vector in the cache does not keep the whole call's memory.
    return texts.map((_, row) => vectors.slice(row * dimensions, (row + 1) * dimensions))
  }
}

/** The fingerprint covers weights, tokeniser, config.json and number format, but not how tokens become one vector. */
function contextOf({ fingerprint, maxTokens, output, pooling, prompts }: BiEncoderModel): string {
  const all = [FORMAT, fingerprint, maxTokens, output, pooling, prompts.passage]
  return createHash('sha256').update(JSON.stringify(all)).digest('base64url').slice(0, 24)
}
