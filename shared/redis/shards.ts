/**
 * The shards of a fleet, each with a connection to where it is: whatever belongs to a request is in the shard that its id
 * names, a corpus in the one that its name names.
 */
import type { Redis } from 'ioredis'
import { CorpusShelves } from '../corpus/corpus-shelves.js'
import type { Options } from '../options.js'
import { keysOf } from '../protocol/keys.js'
import { shardOf, shardPrefixes } from '../protocol/shards.js'
import { reaching } from './connection.js'
import { fleetSize, markShards, otherSize, resize, type SizedShard } from './fleet-size.js'

export interface Shard extends SizedShard {
  /** From 0; what metrics call it. */
  readonly index: number
  /** How many the fleet has. */
  readonly count: number
}

type FleetOptions = Pick<Options, 'redis' | 'prefix' | 'queue' | 'shards'>

/** Who opens a fleet: one who only looks never says how many shards it has. */
export type Opener = 'observer' | 'producer' | 'worker'

export class Shards {
  readonly all: readonly Shard[]
  readonly corpora: CorpusShelves
  /** How many the fleet had before, where this opening has changed it. */
  readonly before: number | undefined

  /**
   * Connects to all shards of a fleet.
   *
   * @param connect makes one connection, for the keys of the prefix that it is given
   * @throws RankmillError `invalid_configuration` where the fleet has another number of shards; as `connect` does
   */
  static async open<T extends FleetOptions>(
    options: T,
    connect: (target: T) => Promise<Redis>,
    by: Opener,
  ): Promise<Shards> {
    const { prefix, queue } = options
    const opened: Redis[] = []
    const open = async (prefixes: readonly string[]): Promise<SizedShard[]> => {
      const settled = await Promise.allSettled(prefixes.map((own) => connect({ ...options, prefix: own })))
      for (const one of settled) if (one.status === 'fulfilled') opened.push(one.value)
      const failed = settled.find((one) => one.status === 'rejected')
      if (failed) throw failed.reason
      const redis = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
      return redis.map((connection, i) => {
        return { redis: connection, keys: keysOf(prefixes[i] ?? prefix, queue) }
      })
    }
    try {
      const [first] = await open([prefix])
      if (!first) throw new Error('a fleet has a shard')
      const { has, isUnused } = await reaching(() => fleetSize(first))
      // Who names no number takes what is there.
      const wanted = options.shards === 0 ? has : options.shards
      if (has !== wanted) {
        const fleet = `"${queue}" under ${prefix}`
        if (by === 'worker' || (by === 'producer' && has === 1)) {
          const others = await open(shardPrefixes(prefix, has).slice(1))
          await reaching(() => resize([first, ...others], wanted, by, fleet))
          for (const { redis } of others) redis.disconnect()
        } else if (!isUnused) {
          throw otherSize(fleet, has, wanted, 'this is not a worker')
        }
      }
      const shards = [first, ...(await open(shardPrefixes(prefix, wanted).slice(1)))].map((shard, index): Shard => {
        return { ...shard, index, count: wanted }
      })
      await reaching(() => (by === 'observer' ? Promise.resolve() : markShards(shards)))
      return new Shards(shards, has === wanted || isUnused ? undefined : has)
    } catch (error) {
      for (const redis of opened) redis.disconnect()
      throw error
    }
  }

  private constructor(all: readonly Shard[], before: number | undefined) {
    this.all = all
    this.before = before
    this.corpora = new CorpusShelves(all)
  }

  /** The first one, whose keys begin with the fleet's own prefix. */
  get first(): Shard {
    return this.all[0] as Shard
  }

  /** The shard of a request. */
  of(id: string): Shard {
    return this.all[shardOf(id, this.all.length)] as Shard
  }

  close(): void {
    for (const { redis } of this.all) redis.disconnect()
  }
}
