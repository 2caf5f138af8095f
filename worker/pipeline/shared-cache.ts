/**
 * What workers know already: in this process (the last recently used), then in hashes in Redis, shared by all workers.
 * One reading is one round trip.
 */
import type { Redis } from 'ioredis'
import type { LRUCache } from 'lru-cache'

/** Where values lie that are looked up together. */
export interface Shelf {
  /** Put before the values' own names in this process. */
  readonly name: string
  /** Keys of the hashes in Redis, the one that is written first; none: values are not shared. */
  readonly hashes: readonly string[]
  /** How long the first hash lives after a write. */
  readonly ttlMs: number
  /** Values that the first hash may hold; when it is full, nothing is added to it. */
  readonly maxFields?: number
}

export interface SharedCacheSettings<V> {
  readonly pack: (value: V) => Buffer
  /** undefined for what cannot be read. */
  readonly unpack: (packed: Buffer) => V | undefined
}

export class SharedCache<V extends object> {
  readonly #redis: Redis
  readonly #local: LRUCache<string, V> | undefined
  readonly #settings: SharedCacheSettings<V>

  /** @param local undefined keeps nothing in this process */
  constructor(redis: Redis, local: LRUCache<string, V> | undefined, settings: SharedCacheSettings<V>) {
    this.#redis = redis
    this.#local = local
    this.#settings = settings
  }

  /** What this process knows, at once. */
  recall(shelf: Pick<Shelf, 'name'>, field: string): V | undefined {
    return this.#local?.get(`${shelf.name} ${field}`)
  }

  /** Keeps a value in this process, at once. */
  remember(shelf: Pick<Shelf, 'name'>, field: string, value: V): void {
    this.#local?.set(`${shelf.name} ${field}`, value)
  }

  /**
   * Known values, in the order of the fields.
   *
   * @param fields binary
   */
  async read(shelf: Shelf, fields: readonly string[]): Promise<(V | undefined)[]> {
    const known = fields.map((field) => this.recall(shelf, field))
    const missing = known.flatMap((value, place) => (value === undefined ? [place] : []))
    if (shelf.hashes.length === 0 || missing.length === 0) return known
    const wanted = missing.map((place) => Buffer.from(fields[place] ?? '', 'latin1'))
    const pages = await Promise.all(shelf.hashes.map((key) => this.#redis.hmgetBuffer(key, ...wanted)))
    missing.forEach((place, n) => {
      const packed = pages.find((page) => page[n])?.[n]
      const value = packed ? this.#settings.unpack(packed) : undefined
      if (value === undefined) return
      known[place] = value
      this.remember(shelf, fields[place] ?? '', value)
    })
    return known
  }

  /** Shares values with the other workers, by their fields. */
  async write({ hashes: [key], ttlMs, maxFields }: Shelf, values: ReadonlyMap<string, V>): Promise<void> {
    if (key === undefined || values.size === 0) return
    const room = maxFields === undefined ? values.size : maxFields - (await this.#redis.hlen(key))
    if (room <= 0) return
    const fields = [...values].slice(0, room).flatMap(([field, value]) => {
      return [Buffer.from(field, 'latin1'), this.#settings.pack(value)]
    })
    await this.#redis
      .pipeline()
      .hset(key, ...fields)
      .pexpire(key, ttlMs)
      .exec()
  }
}
