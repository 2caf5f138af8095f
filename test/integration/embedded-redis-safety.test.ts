/** The private Redis is nobody else's: not other users', not other machines', and not left behind by whoever is killed. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { describe, expect, test, vi } from 'vitest'
import { isAlive, ownIdentity } from '../../shared/process-identity.js'
import { answer, canBeElsewhere, kill, leave, PATIENCE, useEmbeddedStage } from './embedded-redis-stage.js'

const stage = useEmbeddedStage()
const recordFile = () => join(stage().dataDir, 'embedded.json')
const record = () => JSON.parse(readFileSync(recordFile(), 'utf8'))

function modes(folder: string): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }))
    found[name] = (lstatSync(join(folder, name)).mode & 0o777).toString(8)
  return { ...found, '.': (lstatSync(folder).mode & 0o777).toString(8) }
}

/** undefined where it has ended. */
function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  } catch {
    return undefined
  }
}

function childrenOf(pid: number): number[] {
  const all = readdirSync('/proc').map(Number).filter(Boolean)
  return all.filter((each) => parentOf(each) === pid)
}

describe("other users' view", () => {
  test('of the folder is none, whatever it allowed before', async () => {
    const { dataDir } = stage()
    const first = stage().user()
    await stage().inspect((await answer(first, 'got')).url)
    await leave(first)
    for (const [name, mode] of Object.entries(modes(dataDir)))
      chmodSync(join(dataDir, name), mode.startsWith('7') ? 0o755 : 0o644)
    const user = stage().user()
    const { url } = await answer(user, 'got')
    await stage().inspect(url)
    const connection = new Redis(url)
    await connection.set('text', 'secret')
    await connection.bgrewriteaof()
    await vi.waitFor(async () => expect(await connection.info('persistence')).toContain('aof_rewrites:1'), PATIENCE)
    connection.disconnect()
    const seen = modes(dataDir)
    expect(Object.keys(seen)).toEqual(
      expect.arrayContaining(['redis.sock', 'redis.log', 'embedded.json', 'appendonlydir']),
    )
    expect(Object.keys(seen).some((name) => name.endsWith('.aof'))).toBe(true)
    for (const [name, mode] of Object.entries(seen)) expect(`${name} ${mode}`).toMatch(/ [67]00$/)
    await leave(user)
  })

  test('of a Redis on a port is a request for a password that no command line shows', async () => {
    const tooLong = join(stage().dataDir, 'a'.repeat(100))
    const user = stage().user({}, tooLong)
    const { url } = await answer(user, 'got')
    const { pid, config } = await stage().inspect(url)
    expect(config('bind')).toBe('127.0.0.1')
    const { password, port } = new URL(url)
    expect(password.length).toBeGreaterThanOrEqual(32)
    const stranger = new Redis({ host: '127.0.0.1', port: Number(port), lazyConnect: true, retryStrategy: () => null })
    stranger.on('error', () => undefined)
    await expect(stranger.get('anything')).rejects.toThrow(/NOAUTH/)
    stranger.disconnect()
    for (const shown of ['comm', 'cmdline'])
      if (existsSync(`/proc/${pid}/${shown}`))
        expect(readFileSync(`/proc/${pid}/${shown}`, 'utf8')).not.toContain(password)
    for (const [name, mode] of Object.entries(modes(tooLong))) expect(`${name} ${mode}`).toMatch(/ [67]00$/)
    await leave(user)
  })
})

describe('a keeper that is killed', () => {
  test('leaves no Redis behind', async () => {
    const user = stage().user()
    const { pid } = await stage().inspect((await answer(user, 'got')).url)
    process.kill(stage().keeper(), 'SIGKILL')
    await kill(user)
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
  })

  test('while Redis starts leaves none either', async () => {
    const { dataDir } = stage()
    const pidFile = join(dataDir, 'pid')
    const script = `#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit 0\necho $$ > ${pidFile}\nexec sleep 600\n`
    writeFileSync(join(dataDir, 'redis-server'), script, { mode: 0o755 })
    const user = stage().user({ RANKMILL_REDIS_FOLDERS: dataDir, RANKMILL_EMBEDDED_REDIS: 'server' })
    await vi.waitFor(() => expect(readFileSync(pidFile, 'utf8')).toMatch(/\n/), PATIENCE)
    const pid = Number(readFileSync(pidFile, 'utf8'))
    expect(isAlive(pid)).toBe(true)
    await vi.waitFor(() => process.kill(stage().keeper(), 'SIGKILL'), PATIENCE)
    expect(await answer(user, 'refused')).toMatchObject({ code: 'redis_unavailable' })
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE)
  })

  test('is replaced by those who use Redis: it comes back in its place, with what it held, and ends with them', async () => {
    const users = [stage().user(), stage().user()]
    const [url = ''] = await Promise.all(users.map(async (user) => (await answer(user, 'got')).url))
    const before = await stage().inspect(url)
    const connection = new Redis(url, { retryStrategy: () => 25, maxRetriesPerRequest: null })
    connection.on('error', () => undefined)
    await connection.set('kept', 'yes')
    process.kill(stage().keeper(), 'SIGKILL')
    await vi.waitFor(() => expect(isAlive(before.pid)).toBe(false), PATIENCE)
    expect(await connection.get('kept')).toBe('yes')
    connection.disconnect()
    const { pid } = await stage().inspect(url)
    for (const user of users) await leave(user)
    expect(isAlive(pid)).toBe(false)
  })
})

describe.runIf(existsSync('/proc/self/stat'))('a Redis that was left behind all the same', () => {
  test('is ended by the next who comes, and what it held is there', async () => {
    const user = stage().user()
    const { url } = await answer(user, 'got')
    const { pid } = await stage().inspect(url)
    const connection = new Redis(url)
    await connection.set('kept', 'yes')
    connection.disconnect()
    const guard = parentOf(pid)!
    const others = childrenOf(guard).filter((child) => child !== pid)
    for (const other of others) process.kill(other, 'SIGSTOP')
    for (const each of [stage().keeper(), ...others, guard]) process.kill(each, 'SIGKILL')
    await kill(user)
    expect(isAlive(pid)).toBe(true)
    const next = stage().user()
    expect(await answer(next, 'got')).toMatchObject({ url, started: true })
    expect(isAlive(pid)).toBe(false)
    await stage().inspect(url)
    const again = new Redis(url)
    expect(await again.get('kept')).toBe('yes')
    again.disconnect()
    await leave(next)
  })
})

describe('a connection that is killed', () => {
  test('be it the keeper’s or a user’s, ends nothing', async () => {
    const user = stage().user()
    const { url } = await answer(user, 'got')
    const { pid } = await stage().inspect(url)
    const connection = new Redis(url)
    connection.on('error', () => undefined)
    for (let round = 0; round < 3; round++) {
      await connection.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
      await vi.waitFor(async () => {
        const names = String(await connection.client('LIST'))
        expect(names).toContain('name=rankmill-embedded-keeper')
        expect(names).toContain('name=rankmill-embedded-user')
      }, PATIENCE)
    }
    connection.disconnect()
    expect((await stage().inspect(url)).pid).toBe(pid)
    await leave(user)
    expect(isAlive(pid)).toBe(false)
  })
})

describe.skipIf(!canBeElsewhere())('a folder that two containers share', () => {
  test('has one Redis: the second is told who has it, until that one has gone', async () => {
    const user = stage().user()
    const { url } = await answer(user, 'got')
    const { pid } = await stage().inspect(url)
    const { message } = await answer(stage().userElsewhere(), 'refused')
    expect(message).toMatch(/another machine or container.*process \d+ on .*REDIS_URL/)
    expect((await stage().inspect(url)).pid).toBe(pid)
    await leave(user)
    const second = stage().userElsewhere()
    expect(await answer(second, 'got')).toMatchObject({ started: true })
    expect((await answer(stage().user(), 'refused')).message).toMatch(/on elsewhere/)
    await leave(second)
  })

  test('is free soon after the other was killed whole', async () => {
    const killed = stage().userElsewhere()
    await answer(killed, 'got')
    await kill(killed)
    const user = stage().user()
    const { started, url } = await answer(user, 'got')
    expect(started).toBe(true)
    await stage().inspect(url)
    await leave(user)
  })
})

describe('a folder on a file system whose locks other machines do not see', () => {
  const elsewhere = {
    address: { socket: '/nowhere' },
    keeper: { host: 'far', pid: 1, born: 'other/1', pids: 'pid:[1]' },
  }

  test('is refused while the other gives signs of life, and free after that', async () => {
    writeFileSync(recordFile(), JSON.stringify(elsewhere))
    let beats = 0
    const beating = setInterval(() => utimesSync(recordFile(), ++beats, beats), 100)
    try {
      expect((await answer(stage().user(), 'refused')).message).toMatch(/process 1 on far/)
    } finally {
      clearInterval(beating)
    }
    const user = stage().user()
    const { started, url } = await answer(user, 'got')
    expect(started).toBe(true)
    await stage().inspect(url)
    await leave(user)
  })

  test('is left at once by a keeper that slept while another took it', async () => {
    const user = stage().user()
    const { pid } = await stage().inspect((await answer(user, 'got')).url)
    const keeper = stage().keeper()
    writeFileSync(recordFile(), JSON.stringify(elsewhere))
    await vi.waitFor(() => expect([keeper, pid].filter(isAlive)).toEqual([]), PATIENCE)
    await vi.waitFor(() => expect(record()).toEqual(elsewhere), PATIENCE)
    await kill(user)
  })
})

describe('locks', () => {
  test('left by killed processes block nobody, though others have their numbers now', async () => {
    const { dataDir } = stage()
    mkdirSync(dataDir, { recursive: true })
    for (const name of ['turn.lock', 'data.lock', 'embedded.lock']) writeFileSync(join(dataDir, name), `${process.pid}`)
    const earlier = { ...ownIdentity(), born: 'before/1' }
    writeFileSync(recordFile(), JSON.stringify({ address: { socket: '/nowhere' }, keeper: earlier, server: earlier }))
    const user = stage().user()
    const { url } = await answer(user, 'got')
    await stage().inspect(url)
    await leave(user)
  })
})
