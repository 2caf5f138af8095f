/**
 * How many shards a fleet has: all of its processes must count the same, or they would look for requests where they are not. A
 * record in the first shard tells; where there is none, the fleet has one. A worker that names another number may change it
 * while the fleet is empty.
 */
import type { Redis } from 'ioredis'
import { RankmillError } from '../errors.js'
import type { Keys } from '../protocol/keys.js'
import { DEAD_MS } from './worker-registry.js'

/**
 * Lets one of a fleet's shards belong to a fleet of another size, if nothing in it would be lost by that.
 * KEYS: fleet, open, workersSeen, corpora; ARGV: shards, ms to be dead, '1' where no worker may ever have been here, how many it
 * has to have before, or ''
 */
const RESIZE = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local has = redis.call('HGET', KEYS[1], 'shards') or '1'
if has == ARGV[1] then return {'done', 0} end
if ARGV[4] ~= '' and has ~= ARGV[4] then return {'changed', tonumber(has)} end
if ARGV[3] == '1' and redis.call('HEXISTS', KEYS[1], 'model') == 1 then return {'served', 0} end
local workers = redis.call('ZCOUNT', KEYS[3], now - ARGV[2], '+inf')
if workers > 0 then return {'workers', workers} end
local requests = redis.call('ZCARD', KEYS[2])
if requests > 0 then return {'requests', requests} end
local corpora = redis.call('SCARD', KEYS[4])
if corpora > 0 then return {'corpora', corpora} end
-- One, too: a worker that slept meanwhile would say its own number where there is none.
redis.call('HSET', KEYS[1], 'shards', ARGV[1])
return {'done', 0}
`

/** At one moment: somebody may be just about to begin the fleet. KEYS: fleet, open */
const SIZE = `return {redis.call('HGET', KEYS[1], 'shards') or '1', redis.call('EXISTS', KEYS[1], KEYS[2])}`

/** Says it where nobody has, and what is said. KEYS: fleet; ARGV: shards */
const SAY_SIZE = `
redis.call('HSETNX', KEYS[1], 'shards', ARGV[1])
return redis.call('HGET', KEYS[1], 'shards')
`

type Commands = {
  rankmillResize(...args: (string | number)[]): Promise<[outcome: string, count: number]>
  rankmillSaySize(fleet: string, shards: number): Promise<string>
  rankmillFleetSize(...keys: string[]): Promise<[has: string, used: number]>
}

/** One shard's place. */
export interface SizedShard {
  readonly redis: Redis
  readonly keys: Keys
}

/** What a fleet's first shard says of its size. */
export interface FleetSize {
  readonly has: number
  /** Nobody has used the fleet yet, so that it may become of any size. */
  readonly isUnused: boolean
}

export async function fleetSize({ redis, keys }: SizedShard): Promise<FleetSize> {
  redis.defineCommand('rankmillFleetSize', { numberOfKeys: 2, lua: SIZE })
  const [has, used] = await (redis as Redis & Commands).rankmillFleetSize(keys.fleet, keys.open)
  return { has: Number(has), isUnused: used === 0 }
}

/**
 * Says in every shard to how many it belongs: requests that were cut for another number are refused there. The first one counts,
 * and what it says stays; the others follow it, whoever has said there something else meanwhile.
 *
 * @returns what the first one says: where that is another number, nothing was said in the others
 */
export async function markShards(shards: readonly SizedShard[]): Promise<number> {
  const [first, ...others] = shards
  if (!first || others.length === 0) return shards.length
  const { redis } = first
  redis.defineCommand('rankmillSaySize', { numberOfKeys: 1, lua: SAY_SIZE })
  const has = await (redis as Redis & Commands).rankmillSaySize(first.keys.fleet, shards.length)
  if (Number(has) !== shards.length) return Number(has)
  await Promise.all(
    others.map(async ({ redis, keys }) => {
      if ((await redis.hget(keys.fleet, 'shards')) !== has) await redis.hset(keys.fleet, 'shards', has)
    }),
  )
  return shards.length
}

/**
 * Makes a fleet one of another size.
 *
 * @param before all of its shards as they are
 * @param by a producer may only begin a fleet that no worker has served; a worker may change an empty one
 * @throws RankmillError `invalid_configuration` where there is something in it, and all stays as it was
 */
export async function resize(
  before: readonly SizedShard[],
  after: number,
  by: 'producer' | 'worker',
  fleet: string,
): Promise<void> {
  const script = (shard: SizedShard, shards: number, strict: boolean, has: number | '') => {
    const { fleet, open, workersSeen, corpora } = shard.keys
    shard.redis.defineCommand('rankmillResize', { numberOfKeys: 4, lua: RESIZE })
    const redis = shard.redis as Redis & Commands
    return redis.rankmillResize(fleet, open, workersSeen, corpora, shards, DEAD_MS, strict ? '1' : '0', has)
  }
  const changed: SizedShard[] = []
  // The first one last: it is what counts.
  for (const shard of [...before].reverse()) {
    const [outcome, count] = await script(shard, after, by === 'producer', shard === before[0] ? before.length : '')
    if (outcome === 'done') {
      changed.push(shard)
      continue
    }
    // Whoever was faster says in the others what it has made of them, as does everybody who meets another number there.
    if (outcome === 'changed') throw otherSize(fleet, count, after, 'another worker has just changed it')
    for (const one of changed) await script(one, before.length, false, '')
    throw otherSize(fleet, before.length, after, reasonOf(outcome, count))
  }
}

function reasonOf(outcome: string, count: number): string {
  switch (outcome) {
    case 'workers':
      return `${count} worker(s) of it are alive`
    case 'requests':
      return `${count} or more of its requests are not answered yet`
    case 'corpora':
      return `${count} or more corpora lie where that number puts them`
    default:
      return 'only a worker may change it'
  }
}

/** @param reason what is in the way of changing it */
export function otherSize(fleet: string, has: number, wanted: number, reason: string): RankmillError {
  const message =
    `shards: the fleet ${fleet} has ${has}, this says ${wanted}: say --shards ${has} (RANKMILL_SHARDS). It can be changed by a ` +
    `worker that starts with another number while no worker is alive, all requests are answered and there are no corpora; ` +
    `in the way: ${reason}`
  return new RankmillError('invalid_configuration', message, { param: 'shards' })
}

/** Whether an error is that of `otherSize`. */
export function isOtherSize(error: unknown): boolean {
  return error instanceof RankmillError && error.code === 'invalid_configuration' && error.details.param === 'shards'
}
