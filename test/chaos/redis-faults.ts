/** What a Redis and the way to it do now and then, for as long as it takes others to notice. */
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import type { FaultyProxy } from '../integration/faulty-proxy.js'

export const REDIS_FAULTS = ['full', 'read-only', 'clients killed', 'paused', 'half-open', 'slow'] as const
export type RedisFaultKind = (typeof REDIS_FAULTS)[number]

const LASTS_MS = 1200
const LATENCY_MS = 40

export class RedisFaults {
  readonly #admin: Redis
  readonly #proxy: FaultyProxy

  constructor(port: number, proxy: FaultyProxy) {
    this.#admin = new Redis(port, { retryStrategy: () => 50, maxRetriesPerRequest: null })
    this.#admin.on('error', () => undefined)
    this.#proxy = proxy
  }

  /** Begins, lasts, and ends. */
  async bring(kind: RedisFaultKind): Promise<void> {
    switch (kind) {
      case 'full':
        await this.#admin.config('SET', 'maxmemory', 1)
        await delay(LASTS_MS)
        await this.#admin.config('SET', 'maxmemory', 0)
        return
      case 'read-only':
        // Of a primary that is not there: it keeps what it has.
        await this.#admin.replicaof('127.0.0.1', 1)
        await delay(LASTS_MS)
        await this.#admin.call('REPLICAOF', 'NO', 'ONE')
        return
      case 'clients killed':
        await this.#admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
        await this.#admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
        return
      case 'paused':
        await this.#admin.call('CLIENT', 'PAUSE', LASTS_MS, 'ALL')
        return
      case 'half-open':
        // Those that are there stay silent for ever; new ones work.
        this.#proxy.mode = 'stall'
        await delay(LASTS_MS / 4)
        this.#proxy.mode = 'pass'
        return
      case 'slow':
        this.#proxy.latencyMs = LATENCY_MS
        await delay(LASTS_MS)
        this.#proxy.latencyMs = 0
    }
  }

  close(): void {
    this.#admin.disconnect()
  }
}
