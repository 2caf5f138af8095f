/** Two Redis servers that three sentinels watch: the primary is killed, or told to step down. */
import { spawn } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { findLaunch } from '../../cli/embedded/redis-launch.js'
import { freePort } from './free-port.js'
import { KeptProcess } from './kept-process.js'
import type { ServerFault, Servers } from './one-redis.js'

const NAME = 'chaos'
const LOOK_MS = 50
const PATIENCE_MS = 60_000
const SENTINEL = ['down-after-milliseconds chaos 700', 'failover-timeout chaos 3000', 'resolve-hostnames no']

interface Server {
  readonly port: number
  readonly process: KeptProcess
  readonly admin: Redis
}

export class SentinelRedis implements Servers {
  readonly url: string
  readonly faults: readonly ServerFault[] = ['failover', 'primary killed']
  readonly repairs = 0
  readonly #servers: readonly Server[]
  readonly #sentinels: readonly Server[]

  static async start(folder: string, log: (line: string) => void): Promise<SentinelRedis> {
    const env = { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }
    const ports = await Promise.all([freePort(), freePort()])
    const [first] = ports
    const servers: Server[] = []
    for (const [i, port] of ports.entries()) {
      const dataDir = join(folder, `server-${i}`)
      await mkdir(dataDir, { recursive: true })
      const launch = await findLaunch({ dataDir, env, log })
      // A configuration that sentinels can rewrite: whose replica it is outlives a kill.
      const file = join(dataDir, 'redis.conf')
      await writeFile(file, port === first ? '' : `replicaof 127.0.0.1 ${first}\n`)
      const args = [file, ...launch.args, '--port', String(port), '--bind', '127.0.0.1']
      servers.push(kept(launch.command, args, { ...process.env, ...launch.env }, port))
    }
    const sentinels: Server[] = []
    const launch = await findLaunch({ dataDir: folder, env, log })
    for (let i = 0; i < 3; i++) {
      const port = await freePort()
      const file = join(folder, `sentinel-${i}.conf`)
      const lines = [`monitor ${NAME} 127.0.0.1 ${first} 2`, ...SENTINEL].map((line) => `sentinel ${line}`)
      await writeFile(file, `${lines.join('\n')}\n`)
      const args = [file, '--sentinel', '--port', String(port), '--bind', '127.0.0.1', '--dir', folder]
      sentinels.push(kept(launch.command, args, { ...process.env, ...launch.env }, port))
    }
    const started = new SentinelRedis(servers, sentinels)
    await started.#untilWatched()
    return started
  }

  private constructor(servers: readonly Server[], sentinels: readonly Server[]) {
    this.url = `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${NAME}`
    this.#servers = servers
    this.#sentinels = sentinels
  }

  /** Resolves when the other one is the primary, and is followed again. */
  async bring(fault: ServerFault): Promise<void> {
    const before = await this.#primary()
    if (fault === 'primary killed') before?.process.kill()
    await this.#until('another primary', async () => {
      // Refused where one was just made.
      if (fault === 'failover')
        await this.#sentinels[0]?.admin.call('SENTINEL', 'FAILOVER', NAME).catch(() => undefined)
      else if ((await this.#primary()) === before) before?.process.kill()
      return (await this.#primary()) !== before
    })
    await this.#untilWatched()
  }

  async end(): Promise<void> {
    for (const { admin, process } of [...this.#sentinels, ...this.#servers]) {
      admin.disconnect()
      await process.end()
    }
  }

  async #primary(): Promise<Server | undefined> {
    const named = await this.#sentinels[0]?.admin.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME)
    const port = Number((named as string[] | null)?.[1])
    return this.#servers.find((server) => server.port === port)
  }

  /** All sentinels know of each other, and of a replica that follows. */
  async #untilWatched(): Promise<void> {
    await this.#until('the sentinels are ready', async () => {
      const primary = await this.#primary()
      const replication = (await primary?.admin.info('replication')) ?? ''
      if (!/role:master/.test(replication) || !/state=online/.test(replication)) return false
      const infos = await Promise.all(this.#sentinels.map(({ admin }) => admin.call('INFO', 'sentinel')))
      return infos.every((info) => /status=ok.*slaves=1,sentinels=3/.test(String(info)))
    })
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS
    while (!(await holds())) {
      if (performance.now() > deadline) throw new Error(`${what}: not in ${PATIENCE_MS / 1000} s`)
      await delay(LOOK_MS)
    }
  }
}

function kept(command: string, args: readonly string[], env: NodeJS.ProcessEnv, port: number): Server {
  const admin = new Redis(port, { retryStrategy: () => LOOK_MS, maxRetriesPerRequest: null })
  admin.on('error', () => undefined)
  return { port, admin, process: new KeptProcess(() => spawn(command, args, { env, stdio: 'ignore' })) }
}
