/**
 * Embeddings of passages that are known already: in this process, then in Redis. There they lie in one hash for each
 * model and half of `embeddingCacheTtlMs`: what a half wrote is dropped as a whole when the next one is over, and no
 * hash holds more than half of `sharedEmbeddingCacheEntries`.
 */
import { hash } from 'node:crypto'
import type { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import type { Options } from '../../shared/options.js'
import type { Keys } from '../../shared/protocol/keys.js'
import { type Embedding, packEmbedding, unpackEmbedding } from '../embedding.js'
import { TimeSlice } from '../time-slice.js'
import { SharedCache, type Shelf } from './shared-cache.js'

export type EmbeddingCacheOptions = Pick<
  Options,
  'embeddingCacheBytes' | 'embeddingCacheTtlMs' | 'sharedEmbeddingCacheEntries'
>

/** What an embedding costs in this process beyond its numbers. */
const ENTRY_BYTES = 250
/** 144 bits tell texts apart. */
const HASH_BYTES = 18

export class EmbeddingCache {
  readonly #cache: SharedCache<Embedding>
  readonly #keys: Keys
  readonly #halfMs: number
  readonly #maxFields: number
  readonly #now: () => number

  constructor(redis: Redis, keys: Keys, options: EmbeddingCacheOptions, now: () => number) {
    const { embeddingCacheBytes, embeddingCacheTtlMs, sharedEmbeddingCacheEntries } = options
    const local =
      embeddingCacheBytes > 0
        ? new LRUCache<string, Embedding>({
            maxSize: embeddingCacheBytes,
            sizeCalculation: ({ values }, name) => values.length + 2 * name.length + ENTRY_BYTES,
          })
        : undefined
    this.#cache = new SharedCache(redis, local, { pack: packEmbedding, unpack: unpackEmbedding })
    this.#keys = keys
    this.#halfMs = Math.ceil(embeddingCacheTtlMs / 2)
    this.#maxFields = Math.ceil(sharedEmbeddingCacheEntries / 2)
    this.#now = now
  }

  /**
   * Those of texts, in their order.
   *
   * @param context hash of all that an embedding depends on beside the text
   * @param fields what the texts go by (fieldsOf)
   */
  read(context: string, fields: readonly string[]): Promise<(Embedding | undefined)[]> {
    return this.#cache.read(this.#shelf(context), fields)
  }

  /** Keeps embeddings of texts here, by their fields, and shares them with the other workers. */
  async write(context: string, embeddings: ReadonlyMap<string, Embedding>): Promise<void> {
    const shelf = this.#shelf(context)
    for (const [field, embedding] of embeddings) this.#cache.remember(shelf, field, embedding)
    await this.#cache.write(shelf, embeddings)
  }

  /** In this process alone: the embedding of a passage of a corpus, of which the text is not at hand. */
  recallPassage(context: string, corpus: string, version: string, id: string): Embedding | undefined {
    return this.#cache.recall({ name: `${context} ${corpus} ${version}` }, id)
  }

  rememberPassage(context: string, corpus: string, version: string, id: string, embedding: Embedding): void {
    this.#cache.remember({ name: `${context} ${corpus} ${version}` }, id, embedding)
  }

  #shelf(context: string): Shelf {
    const now = this.#now()
    const half = this.#halfMs === 0 ? 0 : Math.floor(now / this.#halfMs)
    const isShared = this.#halfMs > 0 && this.#maxFields > 0
    return {
      name: context,
      hashes: isShared ? [half, half - 1].map((n) => this.#keys.embeddings(context, n)) : [],
      ttlMs: (half + 2) * this.#halfMs - now,
      maxFields: this.#maxFields,
    }
  }
}

/** What texts go by in the cache, the same for the same text. @throws the signal's reason */
export async function fieldsOf(texts: readonly string[], signal: AbortSignal): Promise<string[]> {
  const fields: string[] = []
  const slice = new TimeSlice()
  for (const text of texts) {
    fields.push(hash('sha256', text, 'buffer').toString('latin1', 0, HASH_BYTES))
    if (slice.isOver) await slice.pause(signal)
  }
  return fields
}
