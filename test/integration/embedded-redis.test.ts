/** The private Redis, with real processes: who starts it, who shares it, and what is left when they are killed. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { describe, expect, test, vi } from 'vitest'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
import { isAlive } from '../../shared/process-identity.js'
import { answer, kill, leave, PATIENCE, useEmbeddedStage } from './embedded-redis-stage.js'

const stage = useEmbeddedStage()

describe('a Redis that the user names', () => {
  test('is used, and never stopped', async () => {
    const env = { REDIS_URL: 'redis://:secret@redis.example:7000/3' }
    const redis = await findOrStartRedis({ dataDir: stage().dataDir, log: () => undefined, env })
    expect(redis).toMatchObject({ url: env.REDIS_URL, started: false })
    expect(redis.description).toContain('redis.example:7000')
    expect(redis.description).not.toContain('secret')
    await redis.stop()
  })

  test('by an option goes before the environment', async () => {
    const env = { REDIS_URL: 'redis://other.example' }
    const redis = await findOrStartRedis({
      url: 'redis://this.example',
      dataDir: stage().dataDir,
      log: () => undefined,
      env,
    })
    expect(redis.url).toBe('redis://this.example')
  })
})

describe('a private Redis', () => {
  test('is durable, evicts nothing, listens to nobody else, and ends with its user', async () => {
    const user = stage().user()
    const { url, started, description } = await answer(user, 'got')
    expect(started).toBe(true)
    expect(description).toMatch(/^started (redis|valkey)-server \d/)
    const { pid, config } = await stage().inspect(url)
    expect(config('appendonly')).toBe('yes')
    expect(config('appendfsync')).toBe('everysec')
    expect(config('maxmemory-policy')).toBe('noeviction')
    expect(config('port')).toBe('0')
    expect(config('dir')).toBe(stage().dataDir)
    await leave(user)
    expect(isAlive(pid)).toBe(false)
  })

  test('keeps its data for the next run', async () => {
    const first = stage().user()
    const { url } = await answer(first, 'got')
    await stage().inspect(url)
    const connection = new Redis(url)
    await connection.set('kept', 'yes')
    connection.disconnect()
    await leave(first)
    const next = await answer(stage().user(), 'got')
    expect(next.started).toBe(true)
    await stage().inspect(next.url)
    const again = new Redis(next.url)
    expect(await again.get('kept')).toBe('yes')
    again.disconnect()
  })

  test('is shared by all who come at once, and stays until the last has gone', async () => {
    const together = [stage().user(), stage().user(), stage().user()]
    const answers = await Promise.all(together.map((user) => answer(user, 'got')))
    expect(new Set(answers.map(({ url }) => url)).size).toBe(1)
    expect(answers.filter(({ started }) => started)).toHaveLength(1)
    const { pid } = await stage().inspect(answers[0]!.url)
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
    const user = stage().user()
    const { pid } = await stage().inspect((await answer(user, 'got')).url)
    await kill(user)
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
  })

  test('comes back where it was killed, with what it held, and ends with its user', async () => {
    const user = stage().user()
    const { url } = await answer(user, 'got')
    const connection = new Redis(url)
    connection.on('error', () => undefined)
    await connection.set('kept', 'yes')
    const { pid } = await stage().inspect(url)
    process.kill(pid, 'SIGKILL')
    await vi.waitFor(async () => expect(await connection.get('kept')).toBe('yes'), PATIENCE)
    connection.disconnect()
    const revived = await stage().inspect(url)
    expect(revived.pid).not.toBe(pid)
    await leave(user)
    await vi.waitFor(() => expect(isAlive(revived.pid)).toBe(false), PATIENCE)
  })

  test('outlives a killed starter while another uses it', async () => {
    const starter = stage().user()
    const { url } = await answer(starter, 'got')
    const { pid } = await stage().inspect(url)
    const other = stage().user()
    expect(await answer(other, 'got')).toMatchObject({ url, started: false })
    await kill(starter)
    // Long enough for the keeper to have looked: a third comes and goes.
    const third = stage().user()
    expect(await answer(third, 'got')).toMatchObject({ url, started: false })
    await leave(third)
    expect(isAlive(pid)).toBe(true)
    await leave(other)
    expect(isAlive(pid)).toBe(false)
  })

  test('is not confused with whatever else answers where one was, nor with a process that has its number', async () => {
    const { dataDir } = stage()
    // Too long for a socket.
    const elsewhere = join(dataDir, 'other'.repeat(20))
    const other = stage().user({}, elsewhere)
    const { url } = await answer(other, 'got')
    const { pid } = await stage().inspect(url)
    const record = JSON.parse(readFileSync(join(elsewhere, 'embedded.json'), 'utf8'))
    const earlier = (identity: object) => ({ ...identity, born: 'before/1' })
    const stale = [
      { ...record, runId: 'f'.repeat(40) },
      { ...record, keeper: earlier(record.keeper), server: earlier(record.server) },
      { port: record.address.port, pid, runId: 'f'.repeat(40) },
      'broken',
    ]
    for (const left of stale) {
      writeFileSync(join(dataDir, 'embedded.json'), JSON.stringify(left))
      const user = stage().user()
      const mine = await answer(user, 'got')
      expect(mine.started).toBe(true)
      expect(mine.url).not.toBe(url)
      expect((await stage().inspect(mine.url)).pid).not.toBe(pid)
      await leave(user)
    }
    expect(isAlive(pid)).toBe(true)
    await leave(other)
  })
})

describe('without any Redis', () => {
  test('says what was tried and what to install', async () => {
    const nothing = { PATH: stage().dataDir, RANKMILL_REDIS_FOLDERS: stage().dataDir }
    const attempt = findOrStartRedis({ dataDir: stage().dataDir, log: () => undefined, env: nothing })
    await expect(attempt).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringMatching(
        /REDIS_URL is not set.*no redis-server.*Docker is not installed.*apt-get.*Install redis-server/,
      ),
    })
  })

  test('refuses a server that is too old', async () => {
    writeFileSync(join(stage().dataDir, 'redis-server'), '#!/bin/sh\necho "Redis server v=5.0.14 sha=0 bits=64"\n', {
      mode: 0o755,
    })
    const env = { PATH: stage().dataDir, RANKMILL_REDIS_FOLDERS: stage().dataDir, RANKMILL_EMBEDDED_REDIS: 'server' }
    const attempt = findOrStartRedis({ dataDir: stage().dataDir, log: () => undefined, env })
    await expect(attempt).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringContaining('5.0.14'),
    })
  })

  test('reports why a server does not start', async () => {
    const script =
      '#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit 0\necho "no space left" >&2\nexit 1\n'
    writeFileSync(join(stage().dataDir, 'redis-server'), script, { mode: 0o755 })
    const user = stage().user({ RANKMILL_REDIS_FOLDERS: stage().dataDir, RANKMILL_EMBEDDED_REDIS: 'server' })
    expect(await answer(user, 'refused')).toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringContaining('no space left'),
    })
  })
})
