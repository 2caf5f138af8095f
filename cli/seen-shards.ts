/** A fleet's shards for one who only looks: those that answer, and what keeps the others from it. */
import type { Redis } from 'ioredis'
import type { AwayShard } from '../monitoring/queue-collector.js'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'
import { keysOf } from '../shared/protocol/keys.js'
import { shardPrefixes } from '../shared/protocol/shards.js'
import { connectProducer, reaching } from '../shared/redis/connection.js'
import { otherSize } from '../shared/redis/fleet-size.js'
import { parseRedisUrl } from '../shared/redis/redis-url.js'
import type { Shard } from '../shared/redis/shards.js'

export interface SeenShards {
  readonly shards: readonly Shard[]
  readonly away: readonly AwayShard[]
  close(): void
}

/** One shard's place, and what it says of the fleet's size; null: nothing. */
interface Asked {
  readonly redis: Redis
  readonly says: number | null
  readonly isUsed: boolean
}

const MOST_SHARDS = 64

/**
 * Connects to what answers of a fleet, as far as its size is known: from an option, or from any shard.
 *
 * @throws RankmillError as `connectProducer` where no shard answers; `invalid_configuration` where the fleet has another
 *   number of shards than the option says
 */
export async function seeShards(options: Options): Promise<SeenShards> {
  const { prefix, queue, shards: named } = options
  const opened = new Set<Redis>()
  const ask = async (own: string): Promise<Asked> => {
    const redis = await connectProducer({ ...options, prefix: own })
    opened.add(redis)
    const { fleet, open } = keysOf(own, queue)
    const [says, used] = await reaching(() => Promise.all([redis.hget(fleet, 'shards'), redis.exists(fleet, open)]))
    return { redis, says: says === null ? null : Number(says), isUsed: used > 0 }
  }
  const close = () => {
    for (const redis of opened) redis.disconnect()
  }
  try {
    const first = await settled(ask(prefix))
    const recorded = first.asked ? (first.asked.says ?? 1) : await sizeFromOthers(options, ask)
    const count = named > 0 ? named : (recorded ?? 1)
    const prefixes = shardPrefixes(prefix, count)
    const others = await Promise.all(prefixes.slice(1).map((own) => settled(ask(own))))
    const all = [first, ...others].map((one, index) => ({ ...one, index, prefix: prefixes[index] ?? prefix }))
    if (all.every(({ asked }) => !asked)) throw first.error
    const other = all.find(({ asked }) => asked?.isUsed && asked.says !== null && asked.says !== count)?.asked?.says
    if (other) throw otherSize(`"${queue}" under ${prefix}`, other, count, 'this is not a worker')
    return {
      shards: all.flatMap(({ asked, index, prefix: own }) => {
        const shard = { index, count, keys: keysOf(own, queue) }
        return asked ? [{ ...shard, redis: asked.redis }] : []
      }),
      away: all.flatMap(({ error, index, prefix: own }) => (error ? [{ index, prefix: own, error }] : [])),
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}

/** Each of several shards says how many there are: where the first one is away, the second, wherever that would be. */
async function sizeFromOthers(
  { redis, prefix, shards }: Options,
  ask: (prefix: string) => Promise<Asked>,
): Promise<number | undefined> {
  if (shards > 0 || parseRedisUrl(redis).kind !== 'cluster') return undefined
  const sizes = Array.from({ length: MOST_SHARDS - 1 }, (_, i) => i + 2)
  const seconds = [...new Set(sizes.map((count) => shardPrefixes(prefix, count)[1] ?? ''))]
  const found = await Promise.all(seconds.map((own) => settled(ask(own))))
  return found.find(({ asked }) => asked && asked.says !== null)?.asked?.says ?? undefined
}

async function settled(asking: Promise<Asked>): Promise<{ asked?: Asked; error?: RankmillError }> {
  return asking.then(
    (asked) => ({ asked }),
    (error) => ({ error: RankmillError.from(error) }),
  )
}
