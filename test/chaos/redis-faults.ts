/** What a Redis and the way to it do now and then, for as long as it takes others to notice. */
import { mkdir, rm, rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import type { FaultyProxy } from '../integration/faulty-proxy.js'
import type { SmallDisk } from './small-disk.js'

/** Those after which Redis knows less than it said. */
export const FORGETTING = ['flushed', 'evicting'] as const
export const REDIS_FAULTS = [
  ...(['full', 'read-only', 'unsaved', 'disk full', 'busy', 'scripts forgotten', 'refusing'] as const),
  ...(['clients killed', 'listeners killed', 'paused', 'half-open', 'slow', 'replies lost'] as const),
  ...FORGETTING,
] as const
export type RedisFaultKind = (typeof REDIS_FAULTS)[number]

const LASTS_MS = 1200
const LATENCY_MS = 40
/** Of what it holds, what it may keep while it evicts. */
const KEPT = 0.8
/** Holds Redis up as a script that does not end would. */
const BUSY = `
local function at() local time = redis.call('TIME') return time[1] * 1000 + time[2] / 1000 end
local till = at() + ARGV[1]
while at() < till do end
`

export class RedisFaults {
  readonly #admin: Redis
  readonly #proxy: FaultyProxy
  readonly #disk: SmallDisk

  constructor(port: number, proxy: FaultyProxy, disk: SmallDisk) {
    this.#admin = new Redis(port, { retryStrategy: () => 50, maxRetriesPerRequest: null })
    this.#admin.on('error', () => undefined)
    this.#proxy = proxy
    this.#disk = disk
  }

  /** Begins, lasts, and ends. */
  async bring(kind: RedisFaultKind): Promise<void> {
    switch (kind) {
      case 'full':
        return this.#while({ maxmemory: 1 }, { maxmemory: 0 })
      case 'read-only':
        // Of a primary that is not there: it keeps what it has.
        await this.#admin.replicaof('127.0.0.1', 1)
        await delay(LASTS_MS)
        await this.#admin.call('REPLICAOF', 'NO', 'ONE')
        return
      case 'unsaved':
        return this.#unsaved()
      case 'disk full':
        // Redis 7.0 may not load afterwards what it has written: its operator mends that.
        this.#disk.fill()
        await delay(LASTS_MS)
        this.#disk.free()
        return
      case 'busy':
        await this.#admin.config('SET', 'lua-time-limit', 100)
        await this.#admin.eval(BUSY, 0, LASTS_MS)
        return
      case 'scripts forgotten':
        await this.#admin.script('FLUSH')
        return
      case 'refusing':
        // New connections only: those that are there stay.
        await this.#while({ requirepass: 'changed' }, { requirepass: '' }, () =>
          this.#admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'),
        )
        return
      case 'clients killed':
        await this.#admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
        await this.#admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
        return
      case 'listeners killed':
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
        return
      case 'replies lost':
        // What was sent is done, and nobody hears of it.
        this.#proxy.mode = 'deaf'
        await delay(LASTS_MS / 4)
        this.#proxy.mode = 'cut'
        this.#proxy.mode = 'pass'
        return
      case 'flushed':
        await this.#admin.flushdb()
        return
      case 'evicting': {
        const used = Number(/^used_memory:(\d+)/m.exec(await this.#admin.info('memory'))?.[1])
        const evicts = { maxmemory: Math.floor(used * KEPT), 'maxmemory-policy': 'allkeys-random' }
        return this.#while(evicts, { maxmemory: 0, 'maxmemory-policy': 'noeviction' })
      }
    }
  }

  close(): void {
    this.#admin.disconnect()
  }

  async #while(
    during: Readonly<Record<string, string | number>>,
    after: Readonly<Record<string, string | number>>,
    begin: () => Promise<unknown> = async () => undefined,
  ): Promise<void> {
    for (const [name, value] of Object.entries(during)) await this.#admin.config('SET', name, value)
    await begin()
    await delay(LASTS_MS)
    for (const [name, value] of Object.entries(after)) await this.#admin.config('SET', name, value)
  }

  /** It cannot save a snapshot, and takes no writes therefore (MISCONF). */
  async #unsaved(): Promise<void> {
    const [, name = ''] = (await this.#admin.config('GET', 'dbfilename')) as string[]
    // A folder in the file's place.
    const place = join(this.#disk.folder, name)
    await rm(place, { force: true })
    await mkdir(place, { recursive: true })
    await this.#admin.config('SET', 'save', '86400 1000000')
    await this.#admin.bgsave().catch(() => undefined)
    await delay(LASTS_MS)
    await this.#admin.config('SET', 'save', '')
    await rmdir(place)
  }
}
