/**
 * The Lua scripts: each is one step that must happen whole or not at all. A request's life in them:
 * `remember` (submitted) -> `writePart` (each part scored) -> `answer` (written once, waiters told).
 */
import type { Redis } from 'ioredis'
import { ERRORS } from './errors.js'
import type { Keys } from './keys.js'
import type { Lane } from './lanes.js'
import type { WorkerInfo } from './worker-info.js'

/** Notes a request, unless it is known or the queue is full. A failed answer that a retry can help is taken back. */
const REMEMBER = `
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
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'new', depth, ARGV[6]}
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
  rankmillRemember(...args: (string | number)[]): Promise<[RememberOutcome, number, Lane]>
  rankmillWritePart(...args: (string | number)[]): Promise<string[]>
  rankmillAnswer(...args: (string | number)[]): Promise<number>
  rankmillHeartbeat(...args: (string | number)[]): Promise<number>
  rankmillWorkers(...args: (string | number)[]): Promise<(string | null)[]>
}

export type RememberOutcome = 'new' | 'pending' | 'answered' | 'reopened' | 'conflict' | 'overloaded'

const RETRYABLE_CODES = ` ${Object.entries(ERRORS)
  .filter(([, e]) => e.retryable)
  .map(([code]) => code)
  .join(' ')} `

/** A worker gives a sign of life this often, and counts as gone after three that did not come. */
export const HEARTBEAT_MS = 5000

/** The scripts as functions over one connection. */
export class Scripts {
  readonly #redis: Redis & ScriptCommands
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    redis.defineCommand('rankmillRemember', { numberOfKeys: 5, lua: REMEMBER })
    redis.defineCommand('rankmillWritePart', { numberOfKeys: 2, lua: WRITE_PART })
    redis.defineCommand('rankmillAnswer', { numberOfKeys: 3, lua: ANSWER })
    redis.defineCommand('rankmillHeartbeat', { numberOfKeys: 2, lua: HEARTBEAT })
    redis.defineCommand('rankmillWorkers', { numberOfKeys: 2, lua: WORKERS })
    this.#redis = redis as Redis & ScriptCommands
    this.#keys = keys
  }

  /**
   * @param meta JSON, with the lane
   * @returns the outcome, how many jobs waited in the lane, and the lane that the request was in before, if it was known
   */
  remember(id: string, fingerprint: string, lane: Lane, meta: string, maxQueuedJobs: number, ttlMs: number) {
    const keys = [this.#keys.request(id), this.#keys.result(id), ...this.#keys.backlog(lane)]
    return this.#redis.rankmillRemember(...keys, fingerprint, maxQueuedJobs, ttlMs, RETRYABLE_CODES, meta, lane)
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
