/**
 * Embeddings of passages that are known already: in this process, then in Redis. There they lie in one hash for each
 * model and half of `embeddingCacheTtlMs`: what a half wrote is dropped as a whole when the next one is over, and no
 * hash holds more than half of `sharedEmbeddingCacheEntries`.
 */
import { hash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Options } from '../../shared/options.js'
import type { Shard } from '../../shared/redis/shards.js'
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
  readonly #shards: readonly Shard[]
  readonly #halfMs: number
  readonly #maxFields: number
  readonly #now: () => number

  constructor(shards: readonly Shard[], options: EmbeddingCacheOptions, now: () => number) {
    const { embeddingCacheBytes, embeddingCacheTtlMs, sharedEmbeddingCacheEntries } = options
    const local =
      embeddingCacheBytes > 0
        ? new LRUCache<string, Embedding>({
            maxSize: embeddingCacheBytes,
            sizeCalculation: ({ values }, name) => values.length + 2 * name.length + ENTRY_BYTES,
          })
        : undefined
    const connections = shards.map(({ redis }) => redis)
    this.#cache = new SharedCache(connections, local, { pack: packEmbedding, unpack: unpackEmbedding })
    this.#shards = shards
    this.#halfMs = Math.ceil(embeddingCacheTtlMs / 2)
    this.#maxFields = Math.ceil(sharedEmbeddingCacheEntries / 2 / shards.length)
    this.#now = now
  }

  /**
   * Those of texts, in their order.
   *
   * @param context hash of all that an embedding depends on beside the text
   * @param fields what the texts go by (fieldsOf)
   */
  async read(context: string, fields: readonly string[]): Promise<(Embedding | undefined)[]> {
    const places: number[][] = this.#shards.map(() => [])
    for (const [place, field] of fields.entries()) places[this.#shardOf(field)]?.push(place)
    const embeddings: (Embedding | undefined)[] = new Array(fields.length).fill(undefined)
    const readings = this.#shards.map(async (shard) => {
      const own = places[shard.index] ?? []
      const wanted = own.map((place) => fields[place] ?? '')
      const read = await this.#cache.read(this.#shelf(context, shard), wanted)
      for (const [i, place] of own.entries()) embeddings[place] = read[i]
    })
    await Promise.all(readings)
    return embeddings
  }

  /** Keeps embeddings of texts here, by their fields, and shares them with the other workers. */
  async write(context: string, embeddings: ReadonlyMap<string, Embedding>): Promise<void> {
    for (const [field, embedding] of embeddings) this.#cache.remember({ name: context }, field, embedding)
    const writings = this.#shards.map((shard) => {
      const own = [...embeddings].filter(([field]) => this.#shardOf(field) === shard.index)
      return this.#cache.write(this.#shelf(context, shard), new Map(own))
    })
    await Promise.all(writings)
  }

  /** In this process alone: the embedding of a passage of a corpus, of which the text is not at hand. */
  recallPassage(context: string, corpus: string, version: string, id: string): Embedding | undefined {
    return this.#cache.recall({ name: `${context} ${corpus} ${version}` }, id)
  }

  rememberPassage(context: string, corpus: string, version: string, id: string, embedding: Embedding): void {
    this.#cache.remember({ name: `${context} ${corpus} ${version}` }, id, embedding)
  }

  /** A field is a hash already. */
  #shardOf(field: string): number {
    return field.charCodeAt(0) % this.#shards.length
  }

  #shelf(context: string, { index, keys }: Shard): Shelf {
    const now = this.#now()
    const half = this.#halfMs === 0 ? 0 : Math.floor(now / this.#halfMs)
    const isShared = this.#halfMs > 0 && this.#maxFields > 0
    return {
      name: context,
      shard: index,
      hashes: isShared ? [half, half - 1].map((n) => keys.embeddings(context, n)) : [],
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
