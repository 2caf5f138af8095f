/** A worker's signs of life: what it serves and how fast, told with every heartbeat; and whether Redis hears them. */
import { hostname } from 'node:os'
import type { Redis } from 'ioredis'
import type { Logger } from '../shared/logger.js'
import { encodedModel } from '../shared/protocol/pool.js'
import type { WorkerInfo } from '../shared/protocol/worker-info.js'
import type { Caretaker } from '../shared/redis/caretaker.js'
import { ConnectionWatch } from '../shared/redis/connection-watch.js'
import type { PoolQueues } from '../shared/redis/pool-queues.js'
import { HEARTBEAT_MS, type WorkerRegistry } from '../shared/redis/worker-registry.js'
import type { JobPools } from './job-pools.js'
import type { Scorers } from './scorers.js'

export interface PresenceParts {
  readonly id: string
  readonly startedAt: number
  readonly redis: Redis
  readonly registry: WorkerRegistry
  readonly caretaker: Caretaker
  readonly queues: PoolQueues
  readonly pools: JobPools
  readonly scorers: Scorers
  readonly metricsUrl: () => string
  /** What requests mean that name no model, where the fleet's first shard says so; undefined in that one. */
  readonly model: (() => string) | undefined
  /** How many the fleet has. */
  readonly shards: number
  /** Told, in the first shard, that it has another number. */
  readonly onOtherSize: (has: number) => void
  readonly log: Logger
}

/** Who has just come, or come back, has to be heard so often before it says that others are dead. */
const BEATS_BEFORE_CARE = 2

export class Presence {
  readonly #parts: PresenceParts
  #watch: ConnectionWatch | undefined
  #beats = 0
  #draining = false
  #isReporter = false
  #model = ''

  constructor(parts: PresenceParts) {
    this.#parts = parts
  }

  /** Whether the last heartbeat was heard. */
  get isHeard(): boolean {
    return this.#watch?.isAnswering ?? false
  }

  /** Of the live workers it is the one that reports what belongs to all of them. */
  get isReporter(): boolean {
    return this.#isReporter
  }

  /** What requests mean here that name no model, by the last heartbeat. */
  get model(): string {
    return this.#model
  }

  async start(): Promise<void> {
    const { redis, log } = this.#parts
    await this.beat()
    this.#watch = new ConnectionWatch(redis, {
      beatMs: HEARTBEAT_MS,
      beat: () => this.beat(),
      onSilent: () => log.warn('Redis does not answer: connecting anew'),
    })
  }

  /** It finishes what it holds and takes no more: whoever comes now should not count on it. */
  async drain(): Promise<void> {
    this.#draining = true
    await this.#say()
  }

  async leave(): Promise<void> {
    this.#watch?.stop()
    await this.#parts.registry.farewell(this.#parts.id)
  }

  async beat(): Promise<void> {
    try {
      await this.#say()
      this.#beats++
    } catch (error) {
      this.#beats = 0
      throw error
    }
    if (this.#draining) return
    const { registry, queues, pools, caretaker, id } = this.#parts
    const alive = (await registry.workers()).sort((a, b) => a.startedAt - b.startedAt || (a.id < b.id ? -1 : 1))
    this.#isReporter = alive[0]?.id === id
    await pools.follow(await queues.withJobs(pools.unwatched(await queues.pools())))
    if (this.#beats > BEATS_BEFORE_CARE) this.#care(caretaker)
  }

  /** Apart from the heartbeat: a long round is no reason not to be heard. */
  #care(caretaker: Caretaker): void {
    caretaker.look().catch((error) => this.#parts.log.debug({ err: error }, 'cannot look after requests'))
  }

  async #say(): Promise<void> {
    const { id, startedAt, registry, pools, scorers, metricsUrl } = this.#parts
    const loaded = [...scorers.loaded]
    const served = pools.take().map(({ name, ended }) => ({ name, jobsPerSecond: ended / (HEARTBEAT_MS / 1000) }))
    const info: WorkerInfo = {
      id,
      host: hostname(),
      pid: process.pid,
      models: scorers.names,
      filters: scorers.filterNames,
      loaded: loaded.map(({ model: { name, dtype, fingerprint } }) => ({ name, dtype, fingerprint })),
      spaces: loaded.map(({ space }) => space),
      pools: served,
      lockers: pools.lockers,
      metricsUrl: metricsUrl(),
      startedAt,
      draining: this.#draining,
      jobsPerSecond: served.reduce((sum, { jobsPerSecond }) => sum + jobsPerSecond, 0),
      appetite: pools.appetite,
    }
    const { model = () => encodedModel(scorers.names[0] ?? ''), shards } = this.#parts
    const beat = { model: this.#draining ? '' : model(), follows: this.#parts.model !== undefined, shards }
    const fleet = await registry.heartbeat(info, beat)
    this.#model = fleet.model
    // Who slept while it was changed, or began just before that, would serve shards that nobody looks into.
    if (this.#parts.model === undefined && fleet.shards !== shards) this.#parts.onOtherSize(fleet.shards)
  }
}
