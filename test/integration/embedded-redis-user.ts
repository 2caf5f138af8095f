/** A command that uses the private Redis, for embedded-redis.test.ts: says what it got, stops it when told. */
import { findOrStartRedis } from '../../cli/embedded/redis.js'

/** What it says. */
export type UserMessage =
  | { readonly type: 'got'; readonly url: string; readonly started: boolean; readonly description: string }
  | { readonly type: 'refused'; readonly code: string; readonly message: string }
  | { readonly type: 'stopped' }

const say = (message: UserMessage) => process.send?.(message)

try {
  const redis = await findOrStartRedis({ dataDir: process.argv[2] ?? '', log: () => undefined })
  say({ type: 'got', url: redis.url, started: redis.started, description: redis.description })
  process.once('message', async () => {
    await redis.stop()
    say({ type: 'stopped' })
    process.disconnect()
  })
} catch (error) {
  const { code, message } = error as { code: string; message: string }
  say({ type: 'refused', code, message })
  process.disconnect()
}
