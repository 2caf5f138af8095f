/** Corpora: passages stored once under ids, so that requests can name them instead of carrying them. */
import type { Redis } from 'ioredis'
import type { Keys } from './keys.js'
import type { Document } from './request.js'

/** Passages in one HSET or HMGET. */
const CHUNK = 500

export interface CorpusInfo {
  readonly name: string
  readonly passages: number
  /** Changes with every put, so that workers' local copies are not mistaken for the new ones. */
  readonly version: string
}

export class Corpora {
  readonly #redis: Redis
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  /** Stores passages, replacing those whose id is there already. Each must have an id. */
  async put(name: string, passages: Iterable<Required<Document>>): Promise<CorpusInfo> {
    let chunk: string[] = []
    const flush = async () => {
      if (chunk.length > 0) await this.#redis.hset(this.#keys.corpus(name), ...chunk)
      chunk = []
    }
    for (const { id, text } of passages) {
      chunk.push(id, text)
      if (chunk.length >= 2 * CHUNK) await flush()
    }
    await flush()
    await this.#redis.incr(this.#keys.corpusVersion(name))
    return this.info(name)
  }

  async info(name: string): Promise<CorpusInfo> {
    const [passages, version] = await Promise.all([
      this.#redis.hlen(this.#keys.corpus(name)),
      this.#redis.get(this.#keys.corpusVersion(name)),
    ])
    return { name, passages, version: version ?? '0' }
  }

  /** The texts under ids, undefined where there is none. */
  async read(name: string, ids: readonly string[]): Promise<(string | undefined)[]> {
    const chunks: Promise<(string | null)[]>[] = []
    for (let i = 0; i < ids.length; i += CHUNK) {
      chunks.push(this.#redis.hmget(this.#keys.corpus(name), ...ids.slice(i, i + CHUNK)))
    }
    return (await Promise.all(chunks)).flat().map((text) => text ?? undefined)
  }

  async remove(name: string): Promise<boolean> {
    const removed = await this.#redis.unlink(this.#keys.corpus(name))
    await this.#redis.incr(this.#keys.corpusVersion(name))
    return removed > 0
  }
}
