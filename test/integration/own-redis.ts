/** Redis servers of a test's own, to be broken. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterEach } from 'vitest'
import { until } from './stage.js'

export interface OwnRedis {
  readonly port: number
  readonly url: string
  readonly process: ChildProcess
  /** As the administrator: a connection that never gives up. */
  readonly admin: Redis
}

export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  return typeof address === 'object' && address ? address.port : 0
}

export async function kill(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill(signal)
  await once(child, 'exit')
}

/** Starts redis-servers, killed after each test of the file. */
export function useOwnRedis(): (flags?: readonly string[], port?: number) => Promise<OwnRedis> {
  const started: OwnRedis[] = []
  const folders: string[] = []
  afterEach(async () => {
    for (const { process, admin } of started.splice(0)) {
      admin.disconnect()
      await kill(process)
    }
    for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
  })
  return async (flags = [], given) => {
    const port = given ?? (await freePort())
    // A replica writes what it gets from its primary, whatever is configured.
    const folder = await mkdtemp(join(tmpdir(), 'rankmill-own-redis-'))
    folders.push(folder)
    const own = ['--port', String(port), '--save', '', '--bind', '127.0.0.1', '--dir', folder]
    // A configuration file comes before all flags.
    const file = flags[0]?.startsWith('--') === false ? flags.slice(0, 1) : []
    const args = [...file, ...own, ...flags.slice(file.length)]
    const process = spawn('redis-server', args, { stdio: 'ignore' })
    const admin = new Redis(port, { retryStrategy: () => 20, maxRetriesPerRequest: null })
    admin.on('error', () => undefined)
    started.push({ port, url: `redis://127.0.0.1:${port}`, process, admin })
    const answers = until('the server answers', () =>
      admin.ping().then(
        () => true,
        (error) => /NOAUTH/.test(error.message),
      ),
    )
    // A connection that never gives up waits for a server that never comes.
    const ended = once(process, 'exit').then(() => {
      throw new Error(`redis-server ended: ${args.join(' ')}`)
    })
    await Promise.race([answers, ended])
    return { port, url: `redis://127.0.0.1:${port}`, process, admin }
  }
}
