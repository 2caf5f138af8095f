/** A data folder of a test's own, and processes that use its Redis; all of it gone afterwards. */
import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { isAlive } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import type { UserMessage } from './embedded-redis-user.js'

const USER = fileURLToPath(new URL('./embedded-redis-user.js', import.meta.url))
const ELSEWHERE = ['--pid', '--uts', '--fork', '--mount-proc', '--kill-child']
export const PATIENCE = { timeout: 60_000, interval: 25 }

export class EmbeddedStage {
  readonly dataDir = realpathSync(mkdtempSync(join(tmpdir(), 'rankmill-redis-')))
  readonly #users: ChildProcess[] = []
  readonly #servers = new Set<number>()

  /** A process that uses the data folder's Redis; with an environment of its own. */
  user(env: NodeJS.ProcessEnv = {}, dataDir = this.dataDir): ChildProcess {
    const user = fork(USER, [dataDir], { env: { ...withoutRedisUrl(), ...env }, execArgv: [] })
    this.#users.push(user)
    return user
  }

  /** One that counts its processes by itself and has another host name, as in a container. */
  userElsewhere(): ChildProcess {
    const command = `hostname elsewhere; exec "$0" "$@"`
    const user = spawn('unshare', [...ELSEWHERE, 'sh', '-c', command, process.execPath, USER, this.dataDir], {
      env: withoutRedisUrl(),
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#users.push(user)
    return user
  }

  async inspect(url: string): Promise<{ pid: number; config: (name: string) => string | undefined }> {
    const connection = new Redis(url)
    try {
      const pid = Number(infoField(await connection.info('server'), 'process_id'))
      this.#servers.add(pid)
      const settings = (await connection.config('GET', '*')) as string[]
      return { pid, config: (name) => settings[settings.indexOf(name) + 1] }
    } finally {
      connection.disconnect()
    }
  }

  keeper(): number {
    return JSON.parse(readFileSync(join(this.dataDir, 'embedded.json'), 'utf8')).keeper.pid
  }

  async end(): Promise<void> {
    for (const user of this.#users.splice(0)) user.kill('SIGKILL')
    for (const pid of this.#servers) await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
    // A server that nobody inspected writes until it ends.
    rmSync(this.dataDir, { recursive: true, force: true, maxRetries: 100 })
  }
}

export function useEmbeddedStage(): () => EmbeddedStage {
  let stage: EmbeddedStage
  beforeEach(() => {
    stage = new EmbeddedStage()
  })
  afterEach(() => stage.end())
  return () => stage
}

function withoutRedisUrl(): NodeJS.ProcessEnv {
  const { REDIS_URL, ...env } = process.env
  return env
}

export function canBeElsewhere(): boolean {
  try {
    execFileSync('unshare', [...ELSEWHERE, 'hostname', 'elsewhere'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export async function answer<T extends UserMessage['type']>(
  user: ChildProcess,
  type: T,
): Promise<Extract<UserMessage, { type: T }>> {
  const [message] = (await once(user, 'message')) as [UserMessage]
  expect(message).toMatchObject({ type })
  return message as Extract<UserMessage, { type: T }>
}

export async function kill(user: ChildProcess): Promise<void> {
  user.kill('SIGKILL')
  await once(user, 'exit')
}

export async function leave(user: ChildProcess): Promise<void> {
  user.send('stop')
  await answer(user, 'stopped')
}
