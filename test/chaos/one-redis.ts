/** A Redis behind a proxy, which is killed, rolled back and disturbed in every way there is. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { findLaunch } from '../../cli/embedded/redis-launch.js'
import { FaultyProxy } from '../integration/faulty-proxy.js'
import { freePort } from './free-port.js'
import { KeptProcess } from './kept-process.js'
import { FORGETTING, REDIS_FAULTS, type RedisFaultKind, RedisFaults } from './redis-faults.js'
import { SmallDisk } from './small-disk.js'

const DISK_MB = 192
/** What a crash of its machine takes of the last writes. */
const ROLLED_BACK_BYTES = 65_536

/** What a run's Redis is to it. */
export interface Servers {
  readonly url: string
  /** What can be brought about here. */
  readonly faults: readonly ServerFault[]
  bring(fault: ServerFault): Promise<void>
  end(): Promise<void>
}

const SERVER_FAULTS = [
  ...(['redis killed', 'redis rolled back', 'failover', 'primary killed'] as const),
  ...REDIS_FAULTS,
] as const
export type ServerFault = (typeof SERVER_FAULTS)[number]

/** After these Redis may know less than it has said. */
export const FORGETFUL: ReadonlySet<string> = new Set([
  'redis rolled back',
  'failover',
  'primary killed',
  ...FORGETTING,
])

export class OneRedis implements Servers {
  readonly url: string
  readonly faults: readonly ServerFault[]
  readonly #disk: SmallDisk
  readonly #proxy: FaultyProxy
  readonly #redis: KeptProcess
  readonly #disturbances: RedisFaults
  #rollsBack = false

  static async start(folder: string, log: (line: string) => void): Promise<OneRedis> {
    const disk = await SmallDisk.mount(folder, DISK_MB)
    if (!disk.canBeFilled) log('chaos: no small disks can be mounted here: full disks of Redis are left out')
    const env = { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }
    const launch = await findLaunch({ dataDir: folder, env, log })
    const port = await freePort()
    const proxy = await FaultyProxy.start(port)
    const args = [...launch.args, '--auto-aof-rewrite-min-size', '8mb', '--port', String(port), '--bind', '127.0.0.1']
    const start = () => spawn(launch.command, args, { env: { ...process.env, ...launch.env }, stdio: 'ignore' })
    return new OneRedis(disk, proxy, port, start)
  }

  private constructor(disk: SmallDisk, proxy: FaultyProxy, port: number, start: () => ReturnType<typeof spawn>) {
    this.url = `redis://127.0.0.1:${proxy.port}`
    this.faults = SERVER_FAULTS.filter(
      (fault) => fault !== 'failover' && fault !== 'primary killed' && (fault !== 'disk full' || disk.canBeFilled),
    )
    this.#disk = disk
    this.#proxy = proxy
    this.#redis = new KeptProcess(() => {
      if (this.#rollsBack) rollBack(disk.folder)
      this.#rollsBack = false
      return start()
    })
    this.#disturbances = new RedisFaults(port, proxy, disk)
  }

  async bring(fault: ServerFault): Promise<void> {
    if (fault === 'disk full') await this.#restart()
    if (fault === 'redis killed' || fault === 'redis rolled back') {
      this.#rollsBack = fault === 'redis rolled back'
      this.#redis.kill()
    } else {
      await this.#disturbances.bring(fault as RedisFaultKind)
    }
  }

  /**
   * Redis 7.0 that has rewritten its append-only file since its start cuts it in the wrong place when the disk is full, and
   * does not start again.
   */
  async #restart(): Promise<void> {
    const ended = once(this.#redis.child, 'exit')
    this.#redis.kill()
    await ended
    await this.#disturbances.untilUp()
  }

  async end(): Promise<void> {
    this.#disturbances.close()
    await this.#redis.end()
    await this.#proxy.close()
    await this.#disk.unmount()
  }
}

/** Takes the last writes out of its append-only file, in the middle of one. */
function rollBack(folder: string): void {
  const files = join(folder, 'appendonlydir')
  if (!existsSync(files)) return
  const newest = readdirSync(files)
    .filter((name) => name.endsWith('.incr.aof'))
    .map((name) => ({ path: join(files, name), number: Number(/\.(\d+)\.incr\.aof$/.exec(name)?.[1]) }))
    .sort((a, b) => b.number - a.number)[0]
  if (!newest) return
  const { size } = statSync(newest.path)
  truncateSync(newest.path, Math.max(0, size - Math.min(ROLLED_BACK_BYTES, Math.floor(size / 2))))
}
