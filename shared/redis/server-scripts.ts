/** The Lua scripts of API servers: limits of API keys, and leases of batches. Times are Redis's own. */
import type { Redis } from 'ioredis'
import type { ServerKeys } from '../protocol/server-keys.js'

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/**
 * Pairs that an API key has under way: kept as a sum, so that a flood costs its next request no more than its first. What
 * was never released is forgotten in time, some of it with each look. KEYS: limits, outstanding, outstanding pairs.
 */
const QUEUED = `
local function less(name)
  redis.call('ZREM', KEYS[2], name)
  local pairs = redis.call('HGET', KEYS[3], name)
  if pairs then
    redis.call('HDEL', KEYS[3], name)
    if redis.call('HEXISTS', KEYS[1], 'queued') == 1 then redis.call('HINCRBY', KEYS[1], 'queued', -pairs) end
  end
end
`

/**
 * Admits work of an API key, or says in how many milliseconds that may be. Two buckets a minute wide (requests, pairs) may
 * go below nothing once, so that a request larger than its bucket is served and paid off; work under way is bounded too.
 * KEYS: limits, outstanding, outstanding pairs; ARGV: requests a minute, pairs a minute, queued pairs (0: no limit), pairs of
 * this, its name, how long it is counted at most.
 */
const ADMIT = `${NOW}${QUEUED}
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, now, 'LIMIT', 0, 100)) do less(gone) end
local queued = redis.call('EXISTS', KEYS[3]) == 1 and tonumber(redis.call('HGET', KEYS[1], 'queued'))
if not queued then
  queued = 0
  for _, pairs in ipairs(redis.call('HVALS', KEYS[3])) do queued = queued + pairs end
end
local cost = {1, tonumber(ARGV[4])}
local levels = {}
for i, name in ipairs({'requests', 'pairs'}) do
  local limit = tonumber(ARGV[i])
  if limit > 0 then
    local known = redis.call('HMGET', KEYS[1], name, name .. '-at')
    local level = known[1] and math.min(limit, known[1] + math.max(0, now - known[2]) * limit / 60000) or limit
    if level < 1 then return {name, math.ceil((1 - level) * 60000 / limit), queued} end
    levels[name] = level - cost[i]
  end
end
local most = tonumber(ARGV[3])
if most > 0 and queued > 0 and queued + cost[2] > most then return {'queued_pairs', 0, queued} end
for name, level in pairs(levels) do redis.call('HSET', KEYS[1], name, tostring(level), name .. '-at', now) end
local before = tonumber(redis.call('HGET', KEYS[3], ARGV[5]) or '0')
redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
redis.call('HSET', KEYS[3], ARGV[5], ARGV[4])
redis.call('HSET', KEYS[1], 'queued', queued - before + cost[2])
-- As long as the longest of what is under way: a short request must not let what is queued for days be forgotten.
for i, ms in ipairs({math.max(3600000, tonumber(ARGV[6])), tonumber(ARGV[6]), tonumber(ARGV[6])}) do
  if redis.call('PTTL', KEYS[i]) < ms then redis.call('PEXPIRE', KEYS[i], ms) end
end
return {'', 0, queued}
`

/** Work that has ended counts no more. KEYS: limits, outstanding, outstanding pairs; ARGV: its name. */
const RELEASE = `${QUEUED}
less(ARGV[1])
return 0
`

/** Takes a lease that nobody holds; its number, or 0. KEYS: batch; ARGV: holder, lease's length. */
const CLAIM = `${NOW}
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local held = redis.call('HMGET', KEYS[1], 'expires', 'lease')
local expires, length = tonumber(held[1] or '0'), tonumber(held[2] or ARGV[2])
-- The clock was set back: whoever holds it says so again within that time.
if expires > now + length then redis.call('HSET', KEYS[1], 'expires', now + length) end
if expires > now then return 0 end
local number = redis.call('HINCRBY', KEYS[1], 'number', 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'expires', now + ARGV[2], 'lease', ARGV[2])
return number
`

/**
 * Renews a lease, and writes the record with it where one is given. -1: another one holds it; 1: the batch was cancelled.
 * KEYS: batch; ARGV: number, lease's length (0 gives it up), record.
 */
const BEAT = `${NOW}
if redis.call('HGET', KEYS[1], 'number') ~= ARGV[1] then return -1 end
local length = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'expires', length > 0 and now + length or 0, 'lease', length)
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'record', ARGV[3]) end
return redis.call('HEXISTS', KEYS[1], 'cancelled')
`

/** What became of work that asked to be admitted. */
export interface Admitted {
  /** The limit that stands against it; '' where it was admitted. */
  readonly against: '' | 'requests' | 'pairs' | 'queued_pairs'
  /** Milliseconds until it may be admitted; 0 where that depends on what is under way. */
  readonly retryAfterMs: number
  /** Pairs that the owner had under way before. */
  readonly queuedPairs: number
}

export interface Limits {
  /** 0: no limit. */
  readonly requestsPerMinute: number
  readonly pairsPerMinute: number
  readonly queuedPairs: number
}

interface ServerCommands {
  rankmillAdmit(...args: (string | number)[]): Promise<[Admitted['against'], number, number]>
  rankmillRelease(...args: string[]): Promise<number>
  rankmillClaim(key: string, holder: string, leaseMs: number): Promise<number>
  rankmillBeat(key: string, number: number, leaseMs: number, record: string): Promise<number>
}

export class ServerScripts {
  readonly #redis: Redis & ServerCommands
  readonly #keys: ServerKeys

  constructor(redis: Redis, keys: ServerKeys) {
    redis.defineCommand('rankmillAdmit', { numberOfKeys: 3, lua: ADMIT })
    redis.defineCommand('rankmillRelease', { numberOfKeys: 3, lua: RELEASE })
    redis.defineCommand('rankmillClaim', { numberOfKeys: 1, lua: CLAIM })
    redis.defineCommand('rankmillBeat', { numberOfKeys: 1, lua: BEAT })
    this.#redis = redis as Redis & ServerCommands
    this.#keys = keys
  }

  /**
   * @param name of the work, for `release`
   * @param ttlMs what is not released counts so long
   */
  async admit(owner: string, limits: Limits, name: string, pairs: number, ttlMs: number): Promise<Admitted> {
    const { requestsPerMinute, pairsPerMinute, queuedPairs } = limits
    const keys = [this.#keys.limits(owner), ...this.#keys.outstanding(owner)]
    const [against, retryAfterMs, queued] = await this.#redis.rankmillAdmit(
      ...keys,
      requestsPerMinute,
      pairsPerMinute,
      queuedPairs,
      pairs,
      name,
      ttlMs,
    )
    return { against, retryAfterMs, queuedPairs: queued }
  }

  async release(owner: string, name: string): Promise<void> {
    await this.#redis.rankmillRelease(this.#keys.limits(owner), ...this.#keys.outstanding(owner), name)
  }

  /** @returns the lease's number, higher than all before; 0 where another one holds it or the batch is gone */
  claim(batch: string, holder: string, leaseMs: number): Promise<number> {
    return this.#redis.rankmillClaim(this.#keys.batch(batch), holder, leaseMs)
  }

  /** Renews a lease and, where a record is given, writes it. */
  async beat(batch: string, number: number, leaseMs: number, record = ''): Promise<'lost' | 'held' | 'cancelled'> {
    const outcome = await this.#redis.rankmillBeat(this.#keys.batch(batch), number, leaseMs, record)
    return outcome < 0 ? 'lost' : outcome === 1 ? 'cancelled' : 'held'
  }
}
