/** The Redis of a test run: the one that scripts/test.mjs found, else one that is found or started for this run. */
import type { TestProject } from 'vitest/node'
import { findOrStartRedis } from '../../cli/embedded/redis.js'

declare module 'vitest' {
  interface ProvidedContext {
    redisUrl: string
  }
}

export default async function setup({ provide }: TestProject): Promise<() => Promise<void>> {
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/test-redis',
    log: (line) => process.stderr.write(`rankmill: ${line}\n`),
  })
  // For the test files' processes and what they start.
  process.env['REDIS_URL'] = redis.url
  provide('redisUrl', redis.url)
  return () => redis.stop()
}
