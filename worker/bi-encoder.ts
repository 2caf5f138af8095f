/** A bi-encoder in use: texts to embeddings, batched, each passage embedded once as long as the cache remembers it. */
import { createHash } from 'node:crypto'
import { RankmillError } from '../shared/errors.js'
import type { Batcher } from './batching/batcher.js'
import type { Urgency } from './batching/urgency.js'
import { type Embedding, product, quantise } from './embedding.js'
import type { InferenceEngine } from './inference/engine.js'
import type { BiEncoderModel } from './model/bi-encoder-model.js'
import { type EmbeddingCache, fieldsOf } from './pipeline/embedding-cache.js'
import type { Candidate } from './pipeline/load-candidates.js'
import type { Looked } from './pipeline/prefilter.js'
import { type EncoderSettings, type TextRunner, tasksOf } from './text/text-tasks.js'
import type { EncodedPair } from './tokenize/pair-encoder.js'

/** Texts that are encoded and embedded together, and how many such blocks of a job at once: its memory is bounded. */
const BLOCK_TEXTS = 256
const BLOCKS = 2
/** Written to the hash of what embeddings depend on: another number whenever they are made in another way. */
const FORMAT = 1

const NOTHING: Embedding = { scale: 0, values: new Int8Array() }

export interface EmbeddedPassages {
  /** In the passages' order. */
  readonly embeddings: readonly Embedding[]
  /** Texts that went through the model. */
  readonly computed: number
}

export interface BiEncoderParts {
  readonly model: BiEncoderModel
  readonly engine: InferenceEngine
  readonly batcher: Batcher
  readonly texts: TextRunner
  /** Whether it is alone in using them, and closes them with itself. */
  readonly ownsTexts: boolean
  readonly encoder: EncoderSettings
  /** undefined: every text goes through the model. */
  readonly cache: EmbeddingCache | undefined
}

export class BiEncoder {
  readonly model: BiEncoderModel
  readonly engine: InferenceEngine
  readonly batcher: Batcher
  /** Hash of all that a passage's embedding depends on beside its text. */
  readonly context: string
  readonly #texts: TextRunner
  readonly #ownsTexts: boolean
  readonly #encoder: EncoderSettings
  readonly #cache: EmbeddingCache | undefined

  constructor({ model, engine, batcher, texts, ownsTexts, encoder, cache }: BiEncoderParts) {
    this.model = model
    this.engine = engine
    this.batcher = batcher
    this.context = contextOf(model)
    this.#texts = texts
    this.#ownsTexts = ownsTexts
    this.#encoder = encoder
    this.#cache = cache
  }

  /**
   * Scores are the products of the query's embedding with those of the passages.
   *
   * @throws RankmillError as the batcher does, naming the query or the document by its index; or the signal's reason
   */
  async score(query: string, candidates: readonly Candidate[], urgency: Urgency, signal: AbortSignal): Promise<Looked> {
    const open = candidates.filter(({ embedding }) => embedding === undefined)
    const texts = open.map(({ document }) => document.text)
    const ofQuery = this.embed([this.model.prompts.query + query], urgency, signal).catch((error) => {
      throw named(error, () => 'query')
    })
    const ofPassages = this.passages(texts, urgency, signal).catch((error) => {
      throw named(error, (place) => `documents.${open[place]?.index ?? place}`)
    })
    const [[asked], { embeddings, computed }] = await Promise.all([ofQuery, ofPassages])
    const rest = embeddings.values()
    const scores = Float64Array.from(candidates, ({ embedding }) => {
      const known = embedding ?? rest.next().value
      return asked && known ? product(asked, known) : 0
    })
    return { scores, embeddings: { computed, reused: candidates.length - computed } }
  }

  /**
   * Embeddings of passages, from the cache where they are there.
   *
   * @throws RankmillError as the batcher does, with the index of the passage; or the signal's reason
   */
  async passages(texts: readonly string[], urgency: Urgency, signal: AbortSignal): Promise<EmbeddedPassages> {
    const fields = await fieldsOf(texts, signal)
    const places = new Map<string, number>()
    for (const [place, field] of fields.entries()) if (!places.has(field)) places.set(field, place)
    const byField = new Map<string, Embedding>()
    let computed = 0
    const embedBlock = async (block: readonly string[]) => {
      const known = (await this.#cache?.read(this.context, block)) ?? []
      const unknown = block.filter((field, i) => {
        const embedding = known[i]
        if (embedding) byField.set(field, embedding)
        return embedding === undefined
      })
      const own = unknown.map((field) => places.get(field) ?? 0)
      const passages = own.map((place) => this.model.prompts.passage + (texts[place] ?? ''))
      const vectors = await this.embed(passages, urgency, signal).catch((error) => {
        throw moved(error, own)
      })
      const made = new Map(unknown.map((field, i) => [field, quantise(vectors[i] ?? new Float32Array())]))
      for (const [field, embedding] of made) byField.set(field, embedding)
      computed += made.size
      await this.#cache?.write(this.context, made)
    }
    const distinct = [...places.keys()]
    let next = 0
    const lane = async () => {
      while (next < distinct.length) {
        const from = next
        next += BLOCK_TEXTS
        await embedBlock(distinct.slice(from, from + BLOCK_TEXTS)).catch((error) => {
          next = distinct.length
          throw error
        })
      }
    }
    const ends = await Promise.allSettled(Array.from({ length: BLOCKS }, lane))
    for (const end of ends) if (end.status === 'rejected') throw end.reason
    return { embeddings: fields.map((field) => byField.get(field) ?? NOTHING), computed }
  }

  /**
   * One vector of length 1 for each text, in their order. What is too long is cut at the model's maxTokens.
   *
   * @throws RankmillError as the batcher does, with the index of the text; or the signal's reason
   */
  async embed(texts: readonly string[], urgency: Urgency, signal: AbortSignal): Promise<Float32Array[]> {
    if (texts.length === 0) return []
    const pairs = await this.#encode(texts, urgency, signal)
    const { priority, deadlineAt } = urgency
    const { logits: vectors } = await this.batcher.score({ pairs, priority, deadlineAt, signal })
    const dimensions = vectors.length / texts.length
    return texts.map((_, row) => vectors.subarray(row * dimensions, (row + 1) * dimensions))
  }

  /** Gives back what waits, and closes the model's threads. */
  async close(): Promise<void> {
    this.batcher.close()
    await this.engine.close()
    if (this.#ownsTexts) await this.#texts.close()
  }

  /** A text is a pair without its second half. */
  async #encode(texts: readonly string[], urgency: Urgency, signal: AbortSignal): Promise<EncodedPair[]> {
    const outputs = await Promise.all(
      Array.from(tasksOf(texts), ([from, to]) => {
        const task = { kind: 'texts', encoder: this.#encoder, passages: texts.slice(from, to) } as const
        return this.#texts.run(task, urgency, signal)
      }),
    )
    return outputs.flatMap(({ ids, lengths }) => {
      let at = 0
      return Array.from(lengths, (length) => {
        const own = ids.subarray(at, at + length)
        at += length
        return { ids: own, secondStart: length, truncated: false }
      })
    })
  }
}

/** Tells of an error that it is of one of the texts that were asked for, by its place among those. */
function moved(error: unknown, places: readonly number[]): unknown {
  if (!(error instanceof RankmillError) || error.details.index === undefined) return error
  const index = places[error.details.index] ?? error.details.index
  return new RankmillError(error.code, error.message, { ...error.details, index }, { cause: error })
}

/** Tells which field of the request an error is of. */
function named(error: unknown, paramOf: (place: number) => string): unknown {
  if (!(error instanceof RankmillError) || error.details.index === undefined) return error
  const { index: place, ...details } = error.details
  const param = paramOf(place)
  const index = /^documents\.(\d+)$/.exec(param)?.[1]
  const where = index === undefined ? { param } : { param, index: Number(index) }
  return new RankmillError(error.code, `${param}: ${error.message}`, { ...details, ...where }, { cause: error })
}

/** The fingerprint covers weights, tokeniser, config.json and number format, but not how tokens become one vector. */
function contextOf({ fingerprint, maxTokens, output, pooling, prompts }: BiEncoderModel): string {
  const all = [FORMAT, fingerprint, maxTokens, output, pooling, prompts.passage]
  return createHash('sha256').update(JSON.stringify(all)).digest('base64url').slice(0, 24)
}
