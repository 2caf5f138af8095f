/** The private Redis on a disk that was full: Redis 7.0 may damage its append-only file then, and not load it again. */
import { appendFileSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, test, vi } from 'vitest'
import { increments } from '../../cli/embedded/append-only-file.js'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
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

test('that left a file which Redis does not load is cut before the damage, said, and what it was is kept', async () => {
  const { dataDir } = stage()
  const first = stage().user()
  const { url } = await answer(first, 'got')
  await stage().inspect(url)
  const connection = new Redis(url)
  await connection.set('before', 'kept')
  connection.disconnect()
  await leave(first)
  const [file = ''] = increments(dataDir)
  const sound = readFileSync(file)
  // As it does: the rest of a write that failed, a hole, and what came after.
  const after = '*3\r\n$3\r\nSET\r\n$5\r\nafter\r\n$4\r\nlost\r\n'
  appendFileSync(file, Buffer.concat([Buffer.from(after.slice(0, 20)), Buffer.alloc(300), Buffer.from(after)]))
  const damaged = readFileSync(file)
  const said: string[] = []
  const { REDIS_URL: _, ...env } = process.env
  const redis = await findOrStartRedis({ dataDir, log: (line) => said.push(line), env })
  await stage().inspect(redis.url)
  const again = new Redis(redis.url)
  expect(await again.mget('before', 'after')).toEqual(['kept', null])
  again.disconnect()
  const cut = damaged.length - sound.length
  const [line = ''] = said.filter((each) => each.includes('check-aof'))
  expect(line).toContain(`cut ${cut} of ${damaged.length} bytes`)
  const kept = readdirSync(dataDir).find((name) => name.startsWith('damaged-')) ?? ''
  expect(line).toContain(join(dataDir, kept))
  expect(readFileSync(join(dataDir, kept, file.split('/').at(-1) ?? ''))).toEqual(damaged)
  await redis.stop()
})
