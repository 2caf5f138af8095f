/**
 * Which node of a Redis Cluster has the keys of a prefix. They are all in one slot (the prefix holds a hash tag), so in one
 * node at a time, and a connection to Rankmill's keys is a connection to that node: transactions, pipelines, blocking
 * commands and messages work as on a single server, and cost as many connections.
 */
import type { Redis } from 'ioredis'
import { RankmillError } from '../errors.js'
import type { RedisNode } from './redis-url.js'

/** As in redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec (hash tags): from the first { to the next }. */
const HASH_TAG = /^[^{]*\{[^}]+\}/

export class SlotOwner {
  readonly #prefix: string
  readonly #seeds: readonly RedisNode[]
  readonly #open: (node: RedisNode) => Redis
  #nodes: readonly RedisNode[] = []
  #owner: RedisNode | undefined
  #isSuspect = false
  #looking: Promise<RedisNode> | undefined

  /**
   * @param seeds some nodes of the cluster; the others are found
   * @param open a connection to a node, not connected yet, that does not come back by itself
   * @throws RankmillError `invalid_configuration` where keys of the prefix would be in many slots
   */
  constructor(prefix: string, seeds: readonly RedisNode[], open: (node: RedisNode) => Redis) {
    if (!HASH_TAG.test(prefix)) {
      const message = `--prefix: on a Redis Cluster it needs braces, which keep its keys together, as in {${prefix}}`
      throw new RankmillError('invalid_configuration', message, { param: 'prefix' })
    }
    this.#prefix = prefix
    this.#seeds = seeds
    this.#open = open
  }

  /**
   * @param afresh what was found before will not do: ask the cluster
   * @throws what the last node said, where none knows
   */
  async find(afresh: boolean): Promise<RedisNode> {
    if (this.#owner && !afresh) return this.#owner
    // However many connections were lost with a node, the cluster is asked once.
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined
    })
    return this.#looking
  }

  /** The owner says itself that it cannot serve: others are asked before it. */
  suspect(): void {
    this.#isSuspect = true
  }

  async #look(): Promise<RedisNode> {
    const others = [...this.#nodes, ...this.#seeds]
    const owner = this.#owner ? [this.#owner] : []
    // After a move nobody knows as soon as the node that had the slot.
    const order = this.#isSuspect ? [...others, ...owner] : [...owner, ...others]
    const asked = new Set<string>()
    let failure: unknown
    for (const node of order) {
      const name = `${node.host}:${node.port}`
      if (asked.has(name)) continue
      asked.add(name)
      try {
        this.#owner = await this.#ask(node)
        this.#isSuspect = false
        return this.#owner
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  async #ask(node: RedisNode): Promise<RedisNode> {
    const redis = this.#open(node)
    let reason: unknown
    redis.on('error', (error) => {
      reason = error
    })
    try {
      await redis.connect()
      const [slot, ranges] = await Promise.all([redis.cluster('KEYSLOT', this.#prefix), redis.cluster('SLOTS')])
      // A node that does not know by what name others reach it gives none.
      const nodes = ranges.map(([from, to, ...members]) => ({
        has: from <= slot && slot <= to,
        members: members.map(([host, port]) => ({ host: host || node.host, port })),
      }))
      this.#nodes = nodes.flatMap(({ members }) => members)
      const owner = nodes.find(({ has }) => has)?.members[0]
      if (!owner) throw new Error('CLUSTERDOWN Hash slot not served')
      return owner
    } catch (error) {
      // That the connection is closed says less than why it was.
      throw reason ?? error
    } finally {
      redis.disconnect()
    }
  }
}
