/**
 * A fleet's corpora: each lies in one shard, by its name, whichever shards the requests are in that name it. Queues cost a
 * Redis ten times what reading passages does (docs/redis.md), so what has to be spread is the requests; and a corpus is one
 * thing, with one version and one set of pins, and takes its memory once.
 */
import type { Redis } from 'ioredis'
import type { Keys } from '../protocol/keys.js'
import { shardOf } from '../protocol/shards.js'
import { Corpora, type CorpusInfo, type CorpusTexts, type EmbeddedPassages } from './corpora.js'

export interface CorpusPlace {
  readonly redis: Redis
  readonly keys: Keys
}

export class CorpusShelves {
  readonly #places: readonly CorpusPlace[]
  readonly #corpora: readonly Corpora[]

  constructor(places: readonly CorpusPlace[]) {
    this.#places = places
    this.#corpora = places.map(({ redis, keys }) => new Corpora(redis, keys))
  }

  /** Where a corpus lies. */
  placeOf(name: string): CorpusPlace {
    return this.#places[shardOf(name, this.#places.length)] as CorpusPlace
  }

  of(name: string): Corpora {
    return this.#corpora[shardOf(name, this.#corpora.length)] as Corpora
  }

  /** Every corpus, by name. */
  async list(): Promise<CorpusInfo[]> {
    const lists = await Promise.all(this.#corpora.map((corpora) => corpora.list()))
    return lists.flat().sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  currentVersion(name: string): Promise<string> {
    return this.of(name).currentVersion(name)
  }

  read(name: string, version: string | null, ids: readonly string[]): Promise<CorpusTexts> {
    return this.of(name).read(name, version, ids)
  }

  hasEmbeddings(name: string, context: string): Promise<boolean> {
    return this.of(name).hasEmbeddings(name, context)
  }

  readEmbedded(name: string, version: string, context: string, ids: readonly string[]): Promise<EmbeddedPassages> {
    return this.of(name).readEmbedded(name, version, context, ids)
  }

  pin(name: string, holder: string, ttlMs: number, version?: string): Promise<string> {
    return this.of(name).pin(name, holder, ttlMs, version)
  }

  shortenPin(name: string, holder: string, ttlMs: number): Promise<void> {
    return this.of(name).shortenPin(name, holder, ttlMs)
  }

  release(name: string, holder: string): Promise<void> {
    return this.of(name).release(name, holder)
  }
}
