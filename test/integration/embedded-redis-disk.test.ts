/** The private Redis on a disk that was full: Redis 7.0 may damage its append-only file then, and not load it again. */
import { appendFileSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, test, vi } from 'vitest'
import { increments } from '../../cli/embedded/append-only-file.js'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
import { isAlive } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import { SmallDisk } from '../chaos/small-disk.js'
import { answer, leave, PATIENCE, useEmbeddedStage } from './embedded-redis-stage.js'

const stage = useEmbeddedStage()
const LARGE = 'x'.repeat(20_000)

test('that had none left and has room again forgets nothing', async (context) => {
  const disk = await SmallDisk.mount(join(stage().dataDir, 'disk'), 12)
  if (!disk.canBeFilled) return context.skip('no file system can be mounted here')
  try {
    const user = stage().user({}, disk.folder)
    const { url } = await answer(user, 'got')
    const { pid } = await stage().inspect(url)
    const connection = new Redis(url, { retryStrategy: () => 50, maxRetriesPerRequest: null })
    connection.on('error', () => undefined)
    const said = async (field: string) => infoField(await connection.info('persistence'), field)
    await connection.set('before', LARGE)
    await connection.bgrewriteaof()
    await vi.waitFor(async () => expect(await said('aof_rewrites')).toBe('1'), PATIENCE)
    disk.fill()
    await vi.waitFor(() => expect(connection.set('full', LARGE)).rejects.toThrow('MISCONF'), PATIENCE)
    disk.free()
    await vi.waitFor(async () => expect(await connection.set('after', LARGE)).toBe('OK'), PATIENCE)
    await vi.waitFor(async () => expect(Number(await said('aof_rewrites'))).toBeGreaterThan(1), PATIENCE)
    await vi.waitFor(async () => expect(await said('aof_rewrite_in_progress')).toBe('0'), PATIENCE)
    const before = await connection.keys('*')
    process.kill(pid, 'SIGKILL')
    await vi.waitFor(async () => expect(await said('aof_rewrites')).toBe('0'), PATIENCE)
    expect((await connection.keys('*')).sort()).toEqual(before.sort())
    expect(readdirSync(disk.folder).filter((name) => name.startsWith('damaged'))).toEqual([])
    await stage().inspect(url)
    connection.disconnect()
    await leave(user)
  } finally {
    await disk.unmount()
  }
})

/** As it does: the rest of a write that failed, a hole, and what came after. */
const LOST = Buffer.concat([Buffer.from('*3\r\n$3\r\nSET'), Buffer.alloc(300), Buffer.from('*1\r\n$4\r\nPING\r\n')])

test('that left a file which Redis does not load is cut before the damage, said, and what it was is kept', async () => {
  const { dataDir } = stage()
  const said: string[] = []
  const { REDIS_URL: _, ...env } = process.env
  const options = { dataDir, log: (line: string) => said.push(line), env }
  const first = await findOrStartRedis(options)
  const connection = new Redis(first.url, { retryStrategy: () => 50, maxRetriesPerRequest: null })
  connection.on('error', () => undefined)
  await connection.set('before', 'kept')
  const [file = ''] = increments(dataDir)
  const damage = () => {
    const sound = readFileSync(file).length
    appendFileSync(file, LOST)
    return { cut: LOST.length, of: sound + LOST.length, bytes: readFileSync(file) }
  }
  const expectSaid = ({ cut, of, bytes }: ReturnType<typeof damage>) => {
    const line = said.filter((each) => each.includes('check-aof')).at(-1) ?? ''
    expect(line).toContain(`cut ${cut} of ${of} bytes`)
    const kept = /kept in (\S+)$/.exec(line)?.[1] ?? ''
    expect(dirname(kept)).toBe(dataDir)
    expect(readFileSync(join(kept, basename(file)))).toEqual(bytes)
  }
  // While it is used …
  const { pid } = await stage().inspect(first.url)
  const inUse = damage()
  process.kill(pid, 'SIGKILL')
  await vi.waitFor(async () => expect(isAlive(pid)).toBe(false), PATIENCE)
  expect(await connection.get('before')).toBe('kept')
  await stage().inspect(first.url)
  await vi.waitFor(() => expect(said).toHaveLength(1), PATIENCE)
  expectSaid(inUse)
  connection.disconnect()
  await first.stop()
  // … and before.
  const left = damage()
  const second = await findOrStartRedis(options)
  await stage().inspect(second.url)
  expectSaid(left)
  const again = new Redis(second.url)
  expect(await again.get('before')).toBe('kept')
  again.disconnect()
  await second.stop()
})
