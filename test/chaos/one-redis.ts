/** A Redis behind a proxy, which is killed, rolled back and disturbed in every way there is. */
import { spawn } from 'node:child_process'
import { findLaunch } from '../../cli/embedded/redis-launch.js'
import { FaultyProxy } from '../integration/faulty-proxy.js'
import { AppendOnlyFile } from './append-only-file.js'
import { freePort } from './free-port.js'
import { KeptProcess } from './kept-process.js'
import { FORGETTING, REDIS_FAULTS, type RedisFaultKind, RedisFaults } from './redis-faults.js'
import { SmallDisk } from './small-disk.js'

const DISK_MB = 192

/** What a run's Redis is to it. */
export interface Servers {
  readonly url: string
  /** What can be brought about here. */
  readonly faults: readonly ServerFault[]
  /** How often an operator had to mend what it had written. */
  readonly repairs: number
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
  #repairs = 0

  /** @param forgets is told when what it knew is lost because an operator mended its file */
  static async start(folder: string, log: (line: string) => void, forgets: () => void): Promise<OneRedis> {
    const disk = await SmallDisk.mount(folder, DISK_MB)
    if (!disk.canBeFilled) log('chaos: no small disks can be mounted here: full disks of Redis are left out')
    const env = { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }
    const launch = await findLaunch({ dataDir: folder, env, log })
    const port = await freePort()
    const proxy = await FaultyProxy.start(port)
    const args = [...launch.args, '--auto-aof-rewrite-min-size', '8mb', '--port', String(port), '--bind', '127.0.0.1']
    const start = () => spawn(launch.command, args, { env: { ...process.env, ...launch.env }, stdio: 'ignore' })
    const file = new AppendOnlyFile(folder, launch)
    return new OneRedis(disk, proxy, port, file, start, (done) => {
      log(`chaos: Redis did not load its data: ${done}`)
      forgets()
    })
  }

  private constructor(
    disk: SmallDisk,
    proxy: FaultyProxy,
    port: number,
    file: AppendOnlyFile,
    start: () => ReturnType<typeof spawn>,
    mended: (done: string) => void,
  ) {
    this.url = `redis://127.0.0.1:${proxy.port}`
    this.faults = SERVER_FAULTS.filter(
      (fault) => fault !== 'failover' && fault !== 'primary killed' && (fault !== 'disk full' || disk.canBeFilled),
    )
    this.#disk = disk
    this.#proxy = proxy
    this.#redis = new KeptProcess(() => {
      const done = file.mend()
      if (done !== undefined) {
        this.#repairs++
        mended(done)
      }
      if (this.#rollsBack) file.rollBack()
      this.#rollsBack = false
      return start()
    })
    this.#disturbances = new RedisFaults(port, proxy, disk)
  }

  get repairs(): number {
    return this.#repairs
  }

  async bring(fault: ServerFault): Promise<void> {
    if (fault === 'redis killed' || fault === 'redis rolled back') {
      this.#rollsBack = fault === 'redis rolled back'
      this.#redis.kill()
    } else {
      await this.#disturbances.bring(fault as RedisFaultKind)
    }
  }

  async end(): Promise<void> {
    this.#disturbances.close()
    await this.#redis.end()
    await this.#proxy.close()
    await this.#disk.unmount()
  }
}
