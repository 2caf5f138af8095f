/**
 * Who is alive: workers say so with every heartbeat, by Redis' clock, and what a dead one held is there to be given back.
 * The oldest of them that lives says which model is meant where a request names none.
 */
import type { Redis } from 'ioredis'
import type { Keys } from '../protocol/keys.js'
import type { WorkerInfo } from '../protocol/worker-info.js'
import type { HeldJob } from './request-life.js'

/** A worker gives a sign of life this often … */
export const HEARTBEAT_MS = 2000
/** … and counts as dead when it gave none for so long. */
export const DEAD_MS = 3 * HEARTBEAT_MS
/** What is held is kept so long after the last sign of the worker, in case nobody looks after it sooner. */
const HELD_TTL_MS = 86_400_000

const CLOCK = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/**
 * KEYS: seen, info, fleet, held; ARGV: worker, info, a model or '' where it takes no more, ms to be dead, lifetime of what is
 * held, 'follows' where the model was decided elsewhere, shards. Returns the fleet's model and shards
 */
const HEARTBEAT = `
${CLOCK}
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[5])
if ARGV[3] ~= '' then
  local owner = redis.call('HGET', KEYS[3], 'modelOf')
  local seen = owner and owner ~= ARGV[1] and redis.call('ZSCORE', KEYS[1], owner)
  if ARGV[6] == 'follows' or not seen or tonumber(seen) < now - ARGV[4] then
    redis.call('HSET', KEYS[3], 'model', ARGV[3], 'modelOf', ARGV[1])
  end
end
if ARGV[7] ~= '1' then redis.call('HSETNX', KEYS[3], 'shards', ARGV[7]) end
return {redis.call('HGET', KEYS[3], 'model') or '', redis.call('HGET', KEYS[3], 'shards') or '1'}
`

/** A worker is gone for good: its jobs are done or were given back. KEYS: seen, info, held; ARGV: worker */
const FAREWELL = `
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return 1
`

/** KEYS: seen, info; ARGV: ms to be dead, 'alive' or 'dead' */
const WORKERS = `
${CLOCK}
-- Redis' clock was set back: who lives says so again soon.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')) do redis.call('ZADD', KEYS[1], now, id) end
local from, to = now - ARGV[1], '+inf'
if ARGV[2] == 'dead' then from, to = '-inf', '(' .. string.format('%.0f', now - ARGV[1]) end
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], from, to)
if ARGV[2] == 'dead' then return ids end
local infos = {}
for _, id in ipairs(ids) do
  local info = redis.call('HGET', KEYS[2], id)
  if info then table.insert(infos, info) end
end
return infos
`

/** One worker at a time looks after the others' requests. KEYS: caretaker; ARGV: worker, ms */
const TAKE_CARE = `
local holder = redis.call('GET', KEYS[1])
-- Longer than it was taken for: Redis' clock was set back.
if holder and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`

/** What a worker says beside what it is. */
export interface Beat {
  /** As in a pool's name: what it would have requests mean that name none; '' where it takes no more. */
  readonly model: string
  /** The model is what the fleet's first shard has: requests mean the same in all shards. */
  readonly follows: boolean
  readonly shards: number
}

const SCRIPTS = {
  rankmillHeartbeat: { numberOfKeys: 4, lua: HEARTBEAT },
  rankmillFarewell: { numberOfKeys: 3, lua: FAREWELL },
  rankmillWorkers: { numberOfKeys: 2, lua: WORKERS },
  rankmillTakeCare: { numberOfKeys: 1, lua: TAKE_CARE },
} as const

type Commands = { [name in keyof typeof SCRIPTS]: (...args: (string | number)[]) => Promise<unknown> }

export class WorkerRegistry {
  readonly #redis: Redis & Commands
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    for (const [name, script] of Object.entries(SCRIPTS)) redis.defineCommand(name, script)
    this.#redis = redis as Redis & Commands
    this.#keys = keys
  }

  /** @returns what requests mean that name no model, '' where no worker has said yet; and how many shards this one belongs to */
  async heartbeat(
    info: WorkerInfo,
    { model, follows, shards }: Beat,
  ): Promise<{ readonly model: string; readonly shards: number }> {
    const { workersSeen, workersInfo, fleet, held } = this.#keys
    const keys = [workersSeen, workersInfo, fleet, held(info.id)]
    const times = [DEAD_MS, HELD_TTL_MS]
    const rest = [...times, follows ? 'follows' : '', shards]
    const reply = await this.#redis.rankmillHeartbeat(...keys, info.id, JSON.stringify(info), model, ...rest)
    const [said, has] = reply as [string, string]
    return { model: said, shards: Number(has) }
  }

  /** Takes a worker off the list, and forgets what it held. */
  async farewell(worker: string): Promise<void> {
    const { workersSeen, workersInfo, held } = this.#keys
    await this.#redis.rankmillFarewell(workersSeen, workersInfo, held(worker), worker)
  }

  /** What the live workers that take jobs last said of themselves. */
  async workers(): Promise<WorkerInfo[]> {
    const infos = (await this.#list('alive')).map((info) => JSON.parse(info) as WorkerInfo)
    return infos.filter(({ draining }) => !draining)
  }

  /** Workers that gave no sign of life for too long. */
  dead(): Promise<string[]> {
    return this.#list('dead')
  }

  /** What a worker last said of itself. */
  async infoOf(worker: string): Promise<WorkerInfo | undefined> {
    const text = await this.#redis.hget(this.#keys.workersInfo, worker)
    return text === null ? undefined : (JSON.parse(text) as WorkerInfo)
  }

  /** What a worker had in hand when it was last heard of. */
  async heldBy(worker: string): Promise<HeldJob[]> {
    return (await this.#redis.hvals(this.#keys.held(worker))).map((text) => JSON.parse(text) as HeldJob)
  }

  async isAtWork(worker: string): Promise<boolean> {
    return (await this.#redis.hlen(this.#keys.held(worker))) > 0
  }

  /** @returns whether this worker looks after others' requests now */
  async takeCare(worker: string): Promise<boolean> {
    return (await this.#redis.rankmillTakeCare(this.#keys.caretaker, worker, DEAD_MS)) === 1
  }

  async #list(which: 'alive' | 'dead'): Promise<string[]> {
    const { workersSeen, workersInfo } = this.#keys
    return (await this.#redis.rankmillWorkers(workersSeen, workersInfo, DEAD_MS, which)) as string[]
  }
}
