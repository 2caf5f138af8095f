/**
 * The Lua scripts: each is one step that must happen whole or not at all. A request's life in them:
 * `remember` (submitted) -> `writePart` (each part scored) -> `answer` (written once, waiters told).
 */
import type { Redis } from 'ioredis'
import { ERRORS } from '../errors.js'
import type { Options } from '../options.js'
import type { Keys } from '../protocol/keys.js'
import type { Lane } from '../protocol/lanes.js'
import type { WorkerInfo } from '../protocol/worker-info.js'

/**
 * Notes a request, unless it is known or the queue is full. A failed answer that a retry can help is taken back. One that
 * may share joins the request of the same content that is under way, if there is one. KEYS: request, result, the lane's
 * lists, what is shared; ARGV: fingerprint, bound, lifetime, codes, note, lane, id, whether it shares, and what the keys
 * of other requests and results begin with.
 */
const REMEMBER = `
if ARGV[8] == '1' then
  local other = redis.call('GET', KEYS[6])
  local request = other and ARGV[9] .. other
  if other and redis.call('EXISTS', request) == 1 and redis.call('EXISTS', ARGV[10] .. other) == 0 then
    redis.call('HINCRBY', request, 'waiters', 1)
    return {'shared', 0, ARGV[6], other}
  end
end
local known = redis.call('HGET', KEYS[1], 'fingerprint')
if known then
  local lane = cjson.decode(redis.call('HGET', KEYS[1], 'meta'))['lane']
  if known ~= ARGV[1] then return {'conflict', 0, lane} end
  local answer = redis.call('GET', KEYS[2])
  if answer and string.sub(answer, 1, 9) == '{"error":' then
    local code = cjson.decode(answer)['error']['code']
    if string.find(ARGV[4], ' ' .. code .. ' ', 1, true) then
      redis.call('DEL', KEYS[2])
      redis.call('HSET', KEYS[1], 'meta', ARGV[5])
      redis.call('PEXPIRE', KEYS[1], ARGV[3])
      return {'reopened', 0, lane}
    end
  end
  return {answer and 'answered' or 'pending', 0, lane}
end
local depth = redis.call('LLEN', KEYS[3]) + redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5])
if depth >= tonumber(ARGV[2]) then return {'overloaded', depth, ARGV[6]} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'meta', ARGV[5])
if ARGV[8] == '1' then
  redis.call('SET', KEYS[6], ARGV[7], 'PX', ARGV[3])
  redis.call('HSET', KEYS[1], 'waiters', 1, 'shared', KEYS[6])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'new', depth, ARGV[6]}
`

/** One of those that share a request wants it no more; whether there are others. */
const LEAVE = `
if redis.call('HEXISTS', KEYS[1], 'waiters') == 0 then return 0 end
return redis.call('HINCRBY', KEYS[1], 'waiters', -1) > 0 and 1 or 0
`

/** Keeps one scored part; the call that brings the last one gets all of them back. */
const WRITE_PART = `
if redis.call('EXISTS', KEYS[2]) == 1 then return {} end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if redis.call('HLEN', KEYS[1]) == tonumber(ARGV[3]) then return redis.call('HVALS', KEYS[1]) end
return {}
`

/** Writes the answer, if there is none yet, and tells whoever waits. Parts outlive an error: a retry goes on from them. */
const ANSWER = `
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
if string.sub(ARGV[1], 1, 9) ~= '{"error":' then redis.call('DEL', KEYS[2]) end
redis.call('PEXPIRE', KEYS[3], ARGV[2])
local shared = redis.call('HGET', KEYS[3], 'shared')
if shared and redis.call('GET', shared) == ARGV[4] then redis.call('DEL', shared) end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`

/** Notes that a worker lives, by Redis's own clock, and forgets those that gave no sign for long. */
const HEARTBEAT = `
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return 0
end
redis.call('ZADD', KEYS[1], ms, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, ms - ARGV[3])) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
return 1
`

const WORKERS = `
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], ms - ARGV[1], '+inf')
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[2], unpack(ids))
`

interface ScriptCommands {
  rankmillRemember(...args: (string | number)[]): Promise<[RememberOutcome, number, Lane, string?]>
  rankmillLeave(key: string): Promise<number>
  rankmillWritePart(...args: (string | number)[]): Promise<string[]>
  rankmillAnswer(...args: (string | number)[]): Promise<number>
  rankmillHeartbeat(...args: (string | number)[]): Promise<number>
  rankmillWorkers(...args: (string | number)[]): Promise<(string | null)[]>
}

export type RememberOutcome = 'new' | 'shared' | 'pending' | 'answered' | 'reopened' | 'conflict' | 'overloaded'

const RETRYABLE_CODES = ` ${Object.entries(ERRORS)
  .filter(([, e]) => e.retryable)
  .map(([code]) => code)
  .join(' ')} `

/** What is noted of a request. */
export interface Remembered {
  readonly id: string
  readonly fingerprint: string
  readonly lane: Lane
  /** JSON, with the lane. */
  readonly meta: string
  readonly shares: string | null
}

/** A worker gives a sign of life this often, and counts as gone after three that did not come. */
export const HEARTBEAT_MS = 5000

/** The scripts as functions over one connection. */
export class Scripts {
  readonly #redis: Redis & ScriptCommands
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    redis.defineCommand('rankmillRemember', { numberOfKeys: 6, lua: REMEMBER })
    redis.defineCommand('rankmillLeave', { numberOfKeys: 1, lua: LEAVE })
    redis.defineCommand('rankmillWritePart', { numberOfKeys: 2, lua: WRITE_PART })
    redis.defineCommand('rankmillAnswer', { numberOfKeys: 3, lua: ANSWER })
    redis.defineCommand('rankmillHeartbeat', { numberOfKeys: 2, lua: HEARTBEAT })
    redis.defineCommand('rankmillWorkers', { numberOfKeys: 2, lua: WORKERS })
    this.#redis = redis as Redis & ScriptCommands
    this.#keys = keys
  }

  /**
   * @param id the request's, unless it joins another
   * @param shares what requests of the same content share, or null where this one stays alone
   * @returns the outcome, how many jobs waited in the lane, the lane that the request was in before, if it was known, and the
   *   id of the request that it joined
   */
  remember(
    { id, fingerprint, lane, meta, shares }: Remembered,
    { maxQueuedJobs, requestTtlMs }: Pick<Options, 'maxQueuedJobs' | 'requestTtlMs'>,
  ): Promise<[RememberOutcome, number, Lane, string?]> {
    const { request, result, same } = this.#keys
    const keys = [request(id), result(id), ...this.#keys.backlog(lane), same(shares ?? '')]
    const note = [fingerprint, maxQueuedJobs, requestTtlMs, RETRYABLE_CODES, meta, lane, id]
    return this.#redis.rankmillRemember(...keys, ...note, shares === null ? 0 : 1, request(''), result(''))
  }

  /** @returns whether others still wait for the request that was shared with them */
  async leave(id: string): Promise<boolean> {
    return (await this.#redis.rankmillLeave(this.#keys.request(id))) === 1
  }

  /** @returns every part once all are there, else nothing */
  writePart(id: string, part: number, data: string, parts: number, ttlMs: number): Promise<string[]> {
    return this.#redis.rankmillWritePart(this.#keys.parts(id), this.#keys.result(id), part, data, parts, ttlMs)
  }

  /** @returns false where the request had been answered before */
  async answer(id: string, data: string, ttlMs: number): Promise<boolean> {
    const keys = [this.#keys.result(id), this.#keys.parts(id), this.#keys.request(id)]
    return (await this.#redis.rankmillAnswer(...keys, data, ttlMs, this.#keys.doneChannel, id)) === 1
  }

  heartbeat(workerId: string, info: string): Promise<number> {
    const { workersSeen, workersInfo } = this.#keys
    return this.#redis.rankmillHeartbeat(workersSeen, workersInfo, workerId, info, 3 * HEARTBEAT_MS)
  }

  /** Takes a worker off the list. */
  farewell(workerId: string): Promise<number> {
    return this.heartbeat(workerId, '')
  }

  /** What the live workers last said of themselves. */
  async workers(): Promise<WorkerInfo[]> {
    const { workersSeen, workersInfo } = this.#keys
    const infos = await this.#redis.rankmillWorkers(workersSeen, workersInfo, 3 * HEARTBEAT_MS)
    return infos.filter((info) => info !== null).map((info) => JSON.parse(info) as WorkerInfo)
  }
}
