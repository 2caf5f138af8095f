/** A bi-encoder in use: texts to embeddings, batched, each text embedded once as long as the cache remembers it. */
import { hash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { assembleBatch } from './batching/batch-assembly.js'
import type { InferenceEngine } from './inference/engine.js'
import type { BiEncoderModel } from './model/bi-encoder-model.js'
import type { Tokenizer } from './tokenize/tokenizer.js'

/** It tokenises on the event loop; after so long it lets others go first. */
const SLICE_MS = 8
/** What an embedding costs in the cache beyond its numbers. */
const ENTRY_BYTES = 150
const HASH_BYTES = 18

interface Waiting {
  readonly place: number
  readonly key: string
  readonly ids: Int32Array
}

export class BiEncoder {
  readonly model: BiEncoderModel
  readonly #tokenizer: Tokenizer
  readonly #engine: InferenceEngine
  readonly #known: LRUCache<string, Float32Array> | undefined

  /** @param cacheBytes of embeddings kept in memory */
  constructor(model: BiEncoderModel, tokenizer: Tokenizer, engine: InferenceEngine, cacheBytes: number) {
    this.model = model
    this.#tokenizer = tokenizer
    this.#engine = engine
    this.#known =
      cacheBytes > 0
        ? new LRUCache({ maxSize: cacheBytes, sizeCalculation: (vector) => vector.byteLength + ENTRY_BYTES })
        : undefined
  }

  /**
   * @returns the cosine of the query's embedding with each passage's
   * @throws RankmillError as the engine does; or the signal's reason
   */
  async score(query: string, passages: readonly string[], signal: AbortSignal): Promise<Float64Array> {
    const { prompts } = this.model
    const [asked] = await this.embed([prompts.query + query], signal)
    const vectors = await this.embed(
      passages.map((passage) => prompts.passage + passage),
      signal,
    )
    return Float64Array.from(vectors, (vector) => {
      let product = 0
      for (let d = 0; d < vector.length; d++) product += (asked?.[d] ?? 0) * (vector[d] ?? 0)
      return product
    })
  }

  /** One vector of length 1 for each text, in their order. What is too long is cut at the model's maxTokens. */
  async embed(texts: readonly string[], signal: AbortSignal): Promise<Float32Array[]> {
    const vectors = new Array<Float32Array>(texts.length)
    const places = new Map<string, number[]>()
    const waiting: Waiting[] = []
    let sliceEnd = performance.now() + SLICE_MS
    for (const [place, text] of texts.entries()) {
      const key = hash('sha256', text, 'buffer').toString('latin1', 0, HASH_BYTES)
      const known = this.#known?.get(key)
      const same = places.get(key)
      if (known) vectors[place] = known
      else if (same) same.push(place)
      else {
        places.set(key, [place])
        waiting.push({ place, key, ids: this.#tokens(text) })
      }
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
        for (const [i, { key }] of batch.entries()) {
          const vector = rows[i] ?? new Float32Array()
          this.#known?.set(key, vector)
          for (const place of places.get(key) ?? []) vectors[place] = vector
        }
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
