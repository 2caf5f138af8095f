/** The private Redis, with real processes: who starts it, who shares it, and what is left when they are killed. */
import { type ChildProcess, execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
import { isAlive } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import type { UserMessage } from './embedded-redis-user.js'

const USER = fileURLToPath(new URL('./embedded-redis-user.js', import.meta.url))
const PATIENCE = { timeout: 60_000, interval: 25 }

let dataDir: string
const users: ChildProcess[] = []
const servers = new Set<number>()

beforeEach(() => {
  dataDir = realpathSync(mkdtempSync(join(tmpdir(), 'rankmill-redis-')))
})

afterEach(async () => {
  for (const user of users.splice(0)) user.kill('SIGKILL')
  for (const pid of servers) await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
  servers.clear()
  rmSync(dataDir, { recursive: true, force: true })
})

/** A process that uses the data folder's Redis; with an environment of its own. */
function startUser(env: NodeJS.ProcessEnv = {}): ChildProcess {
  const user = fork(USER, [dataDir], { env: { ...withoutRedisUrl(), ...env }, execArgv: [] })
  users.push(user)
  return user
}

async function answer<T extends UserMessage['type']>(
  user: ChildProcess,
  type: T,
): Promise<Extract<UserMessage, { type: T }>> {
  const [message] = (await once(user, 'message')) as [UserMessage]
  expect(message).toMatchObject({ type })
  return message as Extract<UserMessage, { type: T }>
}

async function inspect(url: string): Promise<{ pid: number; config: (name: string) => string | undefined }> {
  const connection = new Redis(url)
  try {
    const pid = Number(infoField(await connection.info('server'), 'process_id'))
    servers.add(pid)
    const settings = (await connection.config('GET', '*')) as string[]
    return { pid, config: (name) => settings[settings.indexOf(name) + 1] }
  } finally {
    connection.disconnect()
  }
}

function withoutRedisUrl(): NodeJS.ProcessEnv {
  const { REDIS_URL, ...env } = process.env
  return env
}

/** Minimal systems have no `ps`, others no /proc. */
function parentOf(pid: number): number {
  const status = `/proc/${pid}/status`
  if (existsSync(status)) return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(status, 'utf8'))?.[1])
  return Number(execFileSync('ps', ['-o', 'ppid=', '-p', String(pid)], { encoding: 'utf8' }))
}

/** Connections of keepers. */
async function keepers(url: string): Promise<string[]> {
  const connection = new Redis(url)
  try {
    const clients = String(await connection.client('LIST')).split('\n')
    return clients.filter((line) => line.includes(' name=rankmill-embedded-keeper '))
  } finally {
    connection.disconnect()
  }
}

async function kill(user: ChildProcess): Promise<void> {
  user.kill('SIGKILL')
  await once(user, 'exit')
}

async function leave(user: ChildProcess): Promise<void> {
  user.send('stop')
  await answer(user, 'stopped')
}

describe('a Redis that the user names', () => {
  test('is used, and never stopped', async () => {
    const env = { REDIS_URL: 'redis://:secret@redis.example:7000/3' }
    const redis = await findOrStartRedis({ dataDir, log: () => undefined, env })
    expect(redis).toMatchObject({ url: env.REDIS_URL, started: false })
    expect(redis.description).toContain('redis.example:7000')
    expect(redis.description).not.toContain('secret')
    await redis.stop()
  })

  test('by an option goes before the environment', async () => {
    const env = { REDIS_URL: 'redis://other.example' }
    const redis = await findOrStartRedis({ url: 'redis://this.example', dataDir, log: () => undefined, env })
    expect(redis.url).toBe('redis://this.example')
  })
})

describe('a private Redis', () => {
  test('is durable, evicts nothing, listens on loopback alone, and ends with its user', async () => {
    const user = startUser()
    const { url, started, description } = await answer(user, 'got')
    expect(started).toBe(true)
    expect(description).toMatch(/^started (redis|valkey)-server \d/)
    const { pid, config } = await inspect(url)
    expect(config('appendonly')).toBe('yes')
    expect(config('appendfsync')).toBe('everysec')
    expect(config('maxmemory-policy')).toBe('noeviction')
    expect(config('bind')).toBe('127.0.0.1')
    expect(config('dir')).toBe(dataDir)
    await leave(user)
    expect(isAlive(pid)).toBe(false)
  })

  test('keeps its data for the next run', async () => {
    const first = startUser()
    const { url } = await answer(first, 'got')
    await inspect(url)
    const connection = new Redis(url)
    await connection.set('kept', 'yes')
    connection.disconnect()
    await leave(first)
    const next = await answer(startUser(), 'got')
    expect(next.started).toBe(true)
    await inspect(next.url)
    const again = new Redis(next.url)
    expect(await again.get('kept')).toBe('yes')
    again.disconnect()
  })

  test('is shared by all who come at once, and stays until the last has gone', async () => {
    const together = [startUser(), startUser(), startUser()]
    const answers = await Promise.all(together.map((user) => answer(user, 'got')))
    expect(new Set(answers.map(({ url }) => url)).size).toBe(1)
    expect(answers.filter(({ started }) => started)).toHaveLength(1)
    const { pid } = await inspect(answers[0]!.url)
    const starter = answers.findIndex(({ started }) => started)
    const [owner] = together.splice(starter, 1)
    await leave(owner!)
    expect(isAlive(pid)).toBe(true)
    await leave(together[0]!)
    expect(isAlive(pid)).toBe(true)
    await leave(together[1]!)
    expect(isAlive(pid)).toBe(false)
  })

  test('ends soon after its only user was killed', async () => {
    const user = startUser()
    const { pid } = await inspect((await answer(user, 'got')).url)
    await kill(user)
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
  })

  test('comes back where it was killed, with what it held, and ends with its user', async () => {
    const user = startUser()
    const { url } = await answer(user, 'got')
    const connection = new Redis(url)
    await connection.set('kept', 'yes')
    const { pid } = await inspect(url)
    process.kill(pid, 'SIGKILL')
    await vi.waitFor(async () => expect(await connection.get('kept')).toBe('yes'), PATIENCE)
    connection.disconnect()
    const revived = await inspect(url)
    expect(revived.pid).not.toBe(pid)
    await leave(user)
    await vi.waitFor(() => expect(isAlive(revived.pid)).toBe(false), PATIENCE)
  })

  test('outlives a killed starter while another uses it', async () => {
    const starter = startUser()
    const { url } = await answer(starter, 'got')
    const { pid } = await inspect(url)
    const other = startUser()
    expect(await answer(other, 'got')).toMatchObject({ url, started: false })
    await kill(starter)
    // Long enough for the keeper to have looked: a third comes and goes.
    const third = startUser()
    expect(await answer(third, 'got')).toMatchObject({ url, started: false })
    await leave(third)
    expect(isAlive(pid)).toBe(true)
    await leave(other)
    expect(isAlive(pid)).toBe(false)
  })

  test('is found again where its keeper was killed, and kept by another', async () => {
    const first = startUser()
    const { url } = await answer(first, 'got')
    const { pid } = await inspect(url)
    process.kill(parentOf(pid), 'SIGKILL')
    await vi.waitFor(async () => expect(await keepers(url)).toHaveLength(0), PATIENCE)
    await kill(first)
    const next = startUser()
    expect(await answer(next, 'got')).toMatchObject({ url, started: false })
    await leave(next)
    expect(isAlive(pid)).toBe(false)
  })

  test('is not confused with whatever else answers on a remembered port', async () => {
    const mine = await findOrStartRedis({
      dataDir: join(dataDir, 'other'),
      log: () => undefined,
      env: withoutRedisUrl(),
    })
    try {
      const { pid } = await inspect(mine.url)
      const port = Number(new URL(mine.url).port)
      for (const stale of [{ port, pid: pid + 1 }, { port, pid, runId: 'f'.repeat(40) }, { port: 1 }, 'broken']) {
        writeFileSync(join(dataDir, 'embedded.json'), JSON.stringify(stale))
        const user = startUser()
        const { url, started } = await answer(user, 'got')
        expect(started).toBe(true)
        expect(url).not.toBe(mine.url)
        await inspect(url)
        await leave(user)
      }
    } finally {
      await mine.stop()
    }
  })

  test('can be had after a lock was left by a killed process', async () => {
    const gone = startUser()
    await answer(gone, 'got')
    await kill(gone)
    writeFileSync(join(dataDir, 'embedded.lock'), String(gone.pid))
    const user = startUser()
    await inspect((await answer(user, 'got')).url)
    await leave(user)
  })
})

describe('without any Redis', () => {
  test('says what was tried and what to install', async () => {
    const nothing = { PATH: dataDir, RANKMILL_REDIS_FOLDERS: dataDir }
    const attempt = findOrStartRedis({ dataDir, log: () => undefined, env: nothing })
    await expect(attempt).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringMatching(
        /REDIS_URL is not set.*no redis-server.*Docker is not installed.*apt-get.*Install redis-server/,
      ),
    })
  })

  test('refuses a server that is too old', async () => {
    writeFileSync(join(dataDir, 'redis-server'), '#!/bin/sh\necho "Redis server v=5.0.14 sha=0 bits=64"\n', {
      mode: 0o755,
    })
    const env = { PATH: dataDir, RANKMILL_REDIS_FOLDERS: dataDir, RANKMILL_EMBEDDED_REDIS: 'server' }
    const attempt = findOrStartRedis({ dataDir, log: () => undefined, env })
    await expect(attempt).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringContaining('5.0.14'),
    })
  })

  test('reports why a server does not start', async () => {
    const script =
      '#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit 0\necho "no space left" >&2\nexit 1\n'
    writeFileSync(join(dataDir, 'redis-server'), script, { mode: 0o755 })
    const user = startUser({ RANKMILL_REDIS_FOLDERS: dataDir, RANKMILL_EMBEDDED_REDIS: 'server' })
    expect(await answer(user, 'refused')).toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringContaining('no space left'),
    })
  })
})
