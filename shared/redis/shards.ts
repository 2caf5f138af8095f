/**
 * The shards of a fleet, each with a connection to where it is: whatever belongs to a request is in the shard that its id
 * names, a corpus in the one that its name names.
 */
import type { Redis } from 'ioredis'
import { CorpusShelves } from '../corpus/corpus-shelves.js'
import type { RankmillError } from '../errors.js'
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

/** A fleet whose size changes again and again while it is opened is not opened. */
const OPEN_TRIES = 5

type Connect = (prefix: string) => Promise<Redis>

export class Shards {
  /** How many the fleet had before, where this opening has changed it. */
  readonly before: number | undefined
  readonly #options: FleetOptions
  readonly #connect: Connect
  readonly #by: Opener
  /** Of shards that it had before: whoever uses one just now ends as it would have. */
  readonly #former: Redis[] = []
  #all: readonly Shard[]
  #corpora: CorpusShelves
  #following: Promise<boolean> | undefined

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
    const own: Connect = (at) => connect({ ...options, prefix: at })
    const [first] = await placesOf([prefix], queue, own)
    if (!first) throw new Error('a fleet has a shard')
    try {
      for (let tries = 1; ; tries++) {
        const opened = await Shards.#tryOpen(first, options, own, by)
        if (typeof opened !== 'number') return opened
        // A worker has changed it just now.
        if (options.shards !== 0 || tries === OPEN_TRIES) throw changedMeanwhile(options, opened, options.shards)
      }
    } catch (error) {
      first.redis.disconnect()
      throw error
    }
  }

  /** @returns how many the fleet has, where that has changed meanwhile */
  static async #tryOpen(
    first: SizedShard,
    options: FleetOptions,
    connect: Connect,
    by: Opener,
  ): Promise<Shards | number> {
    const { prefix, queue } = options
    const { has, isUnused } = await reaching(() => fleetSize(first))
    // Who names no number takes what is there.
    const wanted = options.shards === 0 ? has : options.shards
    if (has !== wanted) {
      const fleet = nameOf(options)
      if (by === 'worker' || (by === 'producer' && has === 1)) {
        const others = await placesOf(shardPrefixes(prefix, has).slice(1), queue, connect)
        try {
          await reaching(() => resize([first, ...others], wanted, by, fleet))
        } finally {
          for (const { redis } of others) redis.disconnect()
        }
      } else if (!isUnused) {
        throw otherSize(fleet, has, wanted, 'this is not a worker')
      }
    }
    const places = [first, ...(await placesOf(shardPrefixes(prefix, wanted).slice(1), queue, connect))]
    const letGo = () => {
      for (const { redis } of places.slice(1)) redis.disconnect()
    }
    try {
      const agreed = by === 'observer' ? wanted : await reaching(() => markShards(places))
      if (agreed === wanted)
        return new Shards(places, has === wanted || isUnused ? undefined : has, options, connect, by)
      letGo()
      return agreed
    } catch (error) {
      letGo()
      throw error
    }
  }

  private constructor(
    places: readonly SizedShard[],
    before: number | undefined,
    options: FleetOptions,
    connect: Connect,
    by: Opener,
  ) {
    this.before = before
    this.#options = options
    this.#connect = connect
    this.#by = by
    this.#all = shardsOf(places)
    this.#corpora = new CorpusShelves(this.#all)
  }

  /** Others, once `follow` has found others. */
  get all(): readonly Shard[] {
    return this.#all
  }

  /** As `all`. */
  get corpora(): CorpusShelves {
    return this.#corpora
  }

  /** The first one, whose keys begin with the fleet's own prefix, and whose connection stays. */
  get first(): Shard {
    return this.all[0] as Shard
  }

  /** The shard of a request. */
  of(id: string): Shard {
    return this.all[shardOf(id, this.all.length)] as Shard
  }

  /**
   * Looks how many shards the fleet has by now: a worker may have changed it, or made a fleet of several of one that was new.
   * Who named no number goes on with those that there are. Where it has as many as before, that is said again in each.
   *
   * @returns whether `all` are others now
   * @throws RankmillError `invalid_configuration` where it has another number than was named
   */
  follow(): Promise<boolean> {
    this.#following ??= this.#follow().finally(() => {
      this.#following = undefined
    })
    return this.#following
  }

  close(): void {
    for (const { redis } of this.all) redis.disconnect()
    for (const redis of this.#former) redis.disconnect()
  }

  async #follow(): Promise<boolean> {
    const { prefix, queue, shards } = this.#options
    const { first } = this
    const { has, isUnused } = await reaching(() => fleetSize(first))
    // Where Redis has forgotten it, whoever is here says it again with what it does next.
    if (has !== this.all.length && !isUnused) {
      if (shards !== 0) throw changedMeanwhile(this.#options, has, shards)
      const others = await placesOf(shardPrefixes(prefix, has).slice(1), queue, this.#connect)
      this.#former.push(...this.all.slice(1).map(({ redis }) => redis))
      this.#all = shardsOf([first, ...others])
      this.#corpora = new CorpusShelves(this.#all)
      return true
    }
    if (this.#by !== 'observer') await reaching(() => markShards(this.all))
    return false
  }
}

async function placesOf(prefixes: readonly string[], queue: string, connect: Connect): Promise<SizedShard[]> {
  const settled = await Promise.allSettled(prefixes.map(connect))
  const opened = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  const failed = settled.find((one) => one.status === 'rejected')
  if (failed) {
    for (const redis of opened) redis.disconnect()
    throw failed.reason
  }
  return prefixes.flatMap((prefix, i) => {
    const redis = opened[i]
    return redis ? [{ redis, keys: keysOf(prefix, queue) }] : []
  })
}

function shardsOf(places: readonly SizedShard[]): Shard[] {
  return places.map(({ redis, keys }, index) => ({ redis, keys, index, count: places.length }))
}

function nameOf({ prefix, queue }: Pick<Options, 'prefix' | 'queue'>): string {
  return `"${queue}" under ${prefix}`
}

export function changedMeanwhile(
  options: Pick<Options, 'prefix' | 'queue'>,
  has: number,
  wanted: number,
): RankmillError {
  return otherSize(nameOf(options), has, wanted, 'it was changed while this was connected')
}
