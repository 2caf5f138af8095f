/**
 * A place of its own in the run's Redis for a test file, emptied at the end. The Redis may be the user's, so nothing
 * outside the prefix is touched.
 */
import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, inject, vi } from 'vitest'

export interface TestRedis {
  readonly url: string
  /** For the option `prefix`. */
  readonly prefix: string
  /** A plain connection, open from the first test to the last. */
  readonly connection: Redis
}

/** BullMQ names its connections by prefix; they take a moment to go when they are closed. */
const CLOSING_MS = 5000

/** Call it at the top of a file or of a `describe`. Fails the suite where a client with the prefix is left connected. */
export function useTestRedis(): TestRedis {
  const url = inject('redisUrl')
  const prefix = `{test-${randomBytes(6).toString('hex')}}`
  const connection = new Redis(url, { lazyConnect: true })
  beforeAll(() => connection.connect())
  afterAll(async () => {
    try {
      await vi.waitFor(() => expectNoClient(connection, prefix), { timeout: CLOSING_MS, interval: 50 })
    } finally {
      await removeKeys(connection, prefix)
      connection.disconnect()
    }
  })
  return { url, prefix, connection }
}

async function expectNoClient(connection: Redis, prefix: string): Promise<void> {
  const clients = String(await connection.client('LIST')).split('\n')
  const left = clients.filter((line) => line.includes(` name=${prefix}`))
  if (left.length > 0) throw new Error(`left connected by this test:\n${left.join('\n')}`)
}

async function removeKeys(connection: Redis, prefix: string): Promise<void> {
  for await (const keys of connection.scanStream({ match: `${prefix}*`, count: 1000 })) {
    if ((keys as string[]).length > 0) await connection.unlink(keys as string[])
  }
}
