/** A Redis in a container, through testcontainers, where a Docker engine answers. */
import { execFileSync } from 'node:child_process'
import type { StartedTestContainer } from 'testcontainers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connectProducer } from '../../shared/redis/connection.js'

const IMAGE = process.env['RANKMILL_TEST_REDIS_IMAGE'] ?? 'redis:7'
const reason = whyNot()

describe.skipIf(reason !== undefined)(`Redis in a container${reason ? ` (skipped: ${reason})` : ''}`, () => {
  let container: StartedTestContainer
  let url: string

  beforeAll(async () => {
    // Its clean-up container would be one more image to pull; this file stops what it starts.
    process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true'
    const { GenericContainer, Wait } = await import('testcontainers')
    container = await new GenericContainer(IMAGE)
      .withCommand([
        'redis-server',
        '--protected-mode',
        'no',
        '--appendonly',
        'yes',
        '--maxmemory-policy',
        'noeviction',
      ])
      .withExposedPorts(6379)
      .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
      .start()
    url = `redis://${container.getHost()}:${container.getMappedPort(6379)}`
  })

  afterAll(async () => {
    await container?.stop()
  })

  test('is one that Rankmill accepts', async () => {
    const redis = await connectProducer({ redis: url, prefix: '{test}', commandTimeoutMs: 10_000 })
    try {
      expect(await redis.ping()).toBe('PONG')
      expect(await redis.config('GET', 'maxmemory-policy')).toEqual(['maxmemory-policy', 'noeviction'])
      expect(await redis.config('GET', 'appendonly')).toEqual(['appendonly', 'yes'])
    } finally {
      redis.disconnect()
    }
  })
})

/** Why the test cannot run here. */
function whyNot(): string | undefined {
  try {
    execFileSync('docker', ['info', '--format', '{{.ServerVersion}}'], { stdio: 'pipe', timeout: 10_000 })
  } catch {
    return 'no Docker engine answers'
  }
  try {
    execFileSync('docker', ['image', 'inspect', IMAGE], { stdio: 'pipe', timeout: 10_000 })
    return undefined
  } catch {
    return canPull() ? undefined : `no image ${IMAGE}, and it cannot be pulled`
  }
}

function canPull(): boolean {
  try {
    execFileSync('docker', ['pull', '--quiet', IMAGE], { stdio: 'pipe', timeout: 120_000 })
    return true
  } catch {
    return false
  }
}
