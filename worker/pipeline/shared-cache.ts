/**
 * What workers know already: in this process (the last recently used), then in hashes in Redis, shared by all workers.
 * One reading is one round trip.
 */
import type { Redis } from 'ioredis'
import type { LRUCache } from 'lru-cache'
import { within } from '../../shared/lifecycle.js'
import { redisError } from '../../shared/redis/redis-errors.js'
import { passes } from '../../shared/redis/until-passes.js'

/** Of several shards one that does not answer for so long is done without. */
const AWAY_MS = 1000

/** Where values lie that are looked up together. */
export interface Shelf {
  /** Put before the values' own names in this process. */
  readonly name: string
  /** The shard that they are in. */
  readonly shard: number
  /** Keys of the hashes in Redis, the one that is written first; none: values are not shared. */
  readonly hashes: readonly string[]
  /** How long the first hash lives after a write. */
  readonly ttlMs: number
  /** Values that the first hash may hold; when it is full, nothing is added to it. */
  readonly maxFields?: number
  /** Keeps the hashes of one kind within a bound together. */
  readonly ledger?: Ledger
}

/** All hashes of a kind: those that were written longest ago are dropped as a whole when there are too many values. */
export interface Ledger {
  /** Sorted set: the hashes, by when they were written last. */
  readonly byAge: string
  /** Hash: how many values each has, and all together under ''. */
  readonly sizes: string
  readonly maxFields: number
}

export interface SharedCacheSettings<V> {
  readonly pack: (value: V) => Buffer
  /** undefined for what cannot be read. */
  readonly unpack: (packed: Buffer) => V | undefined
}

/**
 * Writes into a hash and its ledger, and takes off the ledger what is to be dropped, which the caller drops: a script touches
 * only the keys that it declares. What nobody drops because the caller died ends with its lifetime.
 * KEYS: hash, byAge, sizes; ARGV: lifetime in ms, bound, then fields and values. Returns the names of the hashes to drop.
 */
const WRITE_WITHIN = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dropped = {}
local function drop(name)
  redis.call('ZREM', KEYS[2], name)
  redis.call('HINCRBY', KEYS[3], '', -(tonumber(redis.call('HGET', KEYS[3], name)) or 0))
  redis.call('HDEL', KEYS[3], name)
  table.insert(dropped, name)
end
for i = 3, #ARGV, 1000 do redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV))) end
local size = redis.call('HLEN', KEYS[1])
local before = tonumber(redis.call('HGET', KEYS[3], KEYS[1])) or 0
local total = redis.call('HINCRBY', KEYS[3], '', size - before)
redis.call('HSET', KEYS[3], KEYS[1], size)
redis.call('ZADD', KEYS[2], now, KEYS[1])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1], 'LIMIT', 0, 100)) do drop(name) end
total = tonumber(redis.call('HGET', KEYS[3], '')) or 0
while total > tonumber(ARGV[2]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  drop(oldest)
  total = tonumber(redis.call('HGET', KEYS[3], '')) or 0
end
return dropped
`

interface LedgerCommands {
  rankmillWriteWithin(...args: (string | number | Buffer)[]): Promise<string[]>
}

export class SharedCache<V extends object> {
  readonly #shards: readonly (Redis & LedgerCommands)[]
  readonly #local: LRUCache<string, V> | undefined
  readonly #settings: SharedCacheSettings<V>

  /** @param local undefined keeps nothing in this process */
  constructor(shards: readonly Redis[], local: LRUCache<string, V> | undefined, settings: SharedCacheSettings<V>) {
    for (const redis of shards) redis.defineCommand('rankmillWriteWithin', { numberOfKeys: 3, lua: WRITE_WITHIN })
    this.#shards = shards as (Redis & LedgerCommands)[]
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
    const pages = await this.#unlessAway(shelf.shard, (redis) =>
      Promise.all(shelf.hashes.map((key) => redis.hmgetBuffer(key, ...wanted))),
    )
    if (!pages) return known
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
  async write(shelf: Shelf, values: ReadonlyMap<string, V>): Promise<void> {
    if (shelf.hashes.length === 0 || values.size === 0) return
    await this.#unlessAway(shelf.shard, (redis) => this.#write(redis, shelf, values))
  }

  async #write(redis: Redis & LedgerCommands, shelf: Shelf, values: ReadonlyMap<string, V>): Promise<void> {
    const { hashes, ttlMs, maxFields, ledger } = shelf
    const [key = ''] = hashes
    const packed = [...values].flatMap(([field, value]) => [Buffer.from(field, 'latin1'), this.#settings.pack(value)])
    if (ledger) {
      const { byAge, sizes, maxFields: bound } = ledger
      const dropped = await redis.rankmillWriteWithin(key, byAge, sizes, ttlMs, bound, ...packed)
      if (dropped.length > 0) await redis.unlink(dropped)
      return
    }
    const room = maxFields === undefined ? values.size : maxFields - (await redis.hlen(key))
    if (room <= 0) return
    await redis
      .pipeline()
      .hset(key, ...packed.slice(0, 2 * room))
      .pexpire(key, ttlMs)
      .exec()
  }

  /**
   * What is known in another shard than the request's may not keep the request waiting: where that does not answer, nothing
   * is known. In a fleet of one shard nothing goes on without its Redis anyway.
   */
  async #unlessAway<T>(shard: number, call: (redis: Redis & LedgerCommands) => Promise<T>): Promise<T | undefined> {
    const redis = this.#shards[shard] as Redis & LedgerCommands
    if (this.#shards.length === 1) return call(redis)
    if (redis.status !== 'ready') return undefined
    let answer: T | undefined
    const answered = call(redis).then(
      (reply) => {
        answer = reply
      },
      (error) => {
        if (!passes(redisError(error))) throw error
      },
    )
    await within(answered, AWAY_MS)
    return answer
  }
}
