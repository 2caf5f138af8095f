/**
 * A fleet as a client sees it: a shard for each request, followed where the number of shards changes. Connects at the first
 * call; two connections a shard (commands, answers) serve any number of requests.
 */
import type { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import { closeAll } from '../shared/lifecycle.js'
import type { Logger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { shardOf } from '../shared/protocol/shards.js'
import { connectProducer } from '../shared/redis/connection.js'
import { isOtherSize } from '../shared/redis/fleet-size.js'
import { Shards } from '../shared/redis/shards.js'
import { ProducerShard } from './producer-shard.js'

/** How often a request follows a fleet that has other shards than a moment ago. */
const FOLLOW_TRIES = 3

interface Connected {
  readonly shards: Shards
  /** Of the shards that there were when they were made. */
  parts: readonly ProducerShard[]
  /** Of those before: who waits at one of them goes on. */
  readonly former: ProducerShard[]
}

export class ProducerFleet {
  readonly #options: Options
  readonly #model: string | null
  readonly #log: Logger
  readonly #closing: AbortSignal
  #connected: Promise<Connected> | undefined

  /**
   * @param model of requests that name none; null: the fleet's default
   * @param closing nothing is connected any more once it is aborted: its reason is thrown instead
   */
  constructor(options: Options, model: string | null, log: Logger, closing: AbortSignal) {
    this.#options = options
    this.#model = model
    this.#log = log
    this.#closing = closing
  }

  /** One for each shard. */
  async parts(): Promise<readonly ProducerShard[]> {
    const connected = await this.#connect()
    if (connected.parts.length !== connected.shards.all.length) {
      connected.former.push(...connected.parts)
      connected.parts = this.#partsOf(connected.shards)
    }
    return connected.parts
  }

  /** Where a request is. */
  async at(id: string): Promise<ProducerShard> {
    const parts = await this.parts()
    return parts[shardOf(id, parts.length)] as ProducerShard
  }

  /** Whether a request that was not found may be in another shard, since the fleet has others by now. */
  async isElsewhere(id: string, looked: ProducerShard): Promise<boolean> {
    const { shards } = await this.#connect()
    await shards.follow()
    return (await this.at(id)) !== looked
  }

  /** Calls with where a request goes, again where the fleet says that it has other shards by now. */
  async following<T>(id: string, call: (part: ProducerShard) => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      const part = await this.at(id)
      try {
        return await call(part)
      } catch (error) {
        if (!isOtherSize(error) || tries === FOLLOW_TRIES) throw error
        await (await this.#connect()).shards.follow()
      }
    }
  }

  /** Of requests that are there: their pins. */
  async corpora(): Promise<CorpusShelves> {
    return (await this.#connect()).shards.corpora
  }

  /** To put one somewhere, or look for it: nothing of a corpus tells that it is not where others look, so that is asked before. */
  async corporaNow(): Promise<CorpusShelves> {
    const { shards } = await this.#connect()
    await shards.follow()
    return shards.corpora
  }

  /**
   * An id that goes where requests of the same content go, to be one with them.
   *
   * @param fingerprintOf called where there are several shards
   * @returns undefined where any id does
   */
  async idBeside(
    fingerprintOf: () => string,
    draw: () => string,
  ): Promise<{ readonly id: string; readonly fingerprint: string } | undefined> {
    const { shards } = await this.#connect()
    if (shards.all.length === 1) return undefined
    const fingerprint = fingerprintOf()
    const wanted = shards.of(fingerprint)
    let id = draw()
    while (shards.of(id) !== wanted) id = draw()
    return { id, fingerprint }
  }

  async close(): Promise<void> {
    const connected = await this.#connected?.catch(() => undefined)
    this.#connected = undefined
    if (!connected) return
    const { shards, parts, former } = connected
    const closing = [...parts, ...former].flatMap((part) => part.closing)
    await closeAll([...closing, { name: 'redis', close: () => shards.close() }])
  }

  #connect(): Promise<Connected> {
    this.#closing.throwIfAborted()
    this.#connected ??= this.#open()
    // One that could not connect tries again at the next call.
    this.#connected.catch(() => {
      this.#connected = undefined
    })
    return this.#connected
  }

  async #open(): Promise<Connected> {
    const shards = await Shards.open(this.#options, connectProducer, 'producer')
    return { shards, parts: this.#partsOf(shards), former: [] }
  }

  #partsOf({ all, corpora }: Shards): ProducerShard[] {
    return all.map((shard) => new ProducerShard(shard, corpora, this.#options, this.#model, this.#log))
  }
}
