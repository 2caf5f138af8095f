/** Redis connections, and the checks without which nothing starts. */
import { Redis, type RedisOptions } from 'ioredis'
import { RankmillError } from '../errors.js'
import { redisError, redisFault } from './redis-errors.js'

/** BullMQ's recommended minimum; older servers lack commands that its scripts call. */
const MINIMUM_VERSION = '6.2.0'

/**
 * Connects a producer: commands fail at once while Redis is away, so that callers learn of it and can decide.
 *
 * @throws RankmillError `redis_unavailable` or `redis_misconfigured`
 */
export async function connectProducer(url: string, commandTimeoutMs: number): Promise<Redis> {
  return connect(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 1,
    commandTimeout: commandTimeoutMs,
    connectionName: 'rankmill-producer',
  })
}

/**
 * Connects a worker: commands wait until Redis is back, since a worker has nobody to complain to.
 *
 * @throws RankmillError `redis_unavailable` or `redis_misconfigured`
 */
export async function connectWorker(url: string, name = 'rankmill-worker'): Promise<Redis> {
  return connect(url, { maxRetriesPerRequest: null, connectionName: name })
}

type ConnectionSettings = Pick<
  RedisOptions,
  'enableOfflineQueue' | 'maxRetriesPerRequest' | 'commandTimeout' | 'connectionName'
>

async function connect(url: string, options: ConnectionSettings): Promise<Redis> {
  let redis: Redis
  try {
    redis = new Redis(parseUrl(url).href, {
      ...options,
      lazyConnect: true,
      connectTimeout: 5000,
      retryStrategy: (attempt) => Math.min(50 * 2 ** Math.min(attempt, 6), 2000),
    })
  } catch (error) {
    throw RankmillError.from(error, 'invalid_configuration')
  }
  let lastError: unknown
  // Without a listener ioredis prints every failed reconnect; the connection's state is watched elsewhere.
  redis.on('error', (error) => {
    lastError = error
  })
  try {
    await redis.connect()
    checkServer(await redis.info('everything'))
    return redis
  } catch (error) {
    redis.disconnect()
    throw explain(error, lastError, url)
  }
}

function parseUrl(url: string): URL {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    throw new RankmillError('invalid_configuration', '--redis: must be a URL like redis://127.0.0.1:6379', {
      param: 'redis',
    })
  }
  if (!['redis:', 'rediss:'].includes(parsed.protocol)) {
    throw new RankmillError(
      'invalid_configuration',
      `--redis: must begin with redis:// or rediss://, got ${parsed.protocol}//`,
      {
        param: 'redis',
      },
    )
  }
  return parsed
}

/** A Redis URL without its password, for logs and messages. */
export function withoutPassword(url: string): string {
  const parsed = parseUrl(url)
  if (parsed.password) parsed.password = '***'
  return parsed.href
}

function explain(error: unknown, lastError: unknown, url: string): RankmillError {
  if (error instanceof RankmillError) return error
  // That the connection is closed says less than why it was.
  const fault = redisFault(lastError) ?? redisFault(error)
  if (!fault) return redisError(lastError ?? error)
  const verb = fault.code === 'redis_unavailable' ? 'reach' : 'use'
  return new RankmillError(
    fault.code,
    `cannot ${verb} Redis at ${withoutPassword(url)}: ${fault.says}: ${fault.advice}`,
  )
}

/**
 * Refuses a server on which jobs could be lost.
 *
 * @param info the text of Redis's INFO command
 * @throws RankmillError `redis_misconfigured`
 */
export function checkServer(info: string): void {
  const version = infoField(info, 'redis_version') ?? '0'
  if (isOlder(version, MINIMUM_VERSION)) {
    throw new RankmillError('redis_misconfigured', `Redis ${version} is too old: at least ${MINIMUM_VERSION} is needed`)
  }
  const policy = infoField(info, 'maxmemory_policy')
  if (policy !== undefined && policy !== 'noeviction') {
    throw new RankmillError(
      'redis_misconfigured',
      `Redis has maxmemory-policy ${policy}, which lets it drop queued jobs: set it to noeviction ` +
        '(`redis-cli config set maxmemory-policy noeviction`, and in redis.conf)',
    )
  }
}

/** One field of INFO's text. */
export function infoField(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
}

function isOlder(version: string, minimum: string): boolean {
  const [a, b] = [version, minimum].map((v) => v.split('.').map(Number))
  for (let i = 0; i < 3; i++) {
    const difference = (a?.[i] ?? 0) - (b?.[i] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

/**
 * Runs calls to Redis: what they fail with leaves as a RankmillError that holds nothing of what was sent. Errors that do not
 * come from Redis (an AbortSignal's reason, a RankmillError, a defect) pass through unchanged.
 *
 * @throws RankmillError `redis_unavailable`, `redis_full`, `redis_read_only`, `redis_denied`, `redis_misconfigured`
 */
export async function reaching<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw redisFault(error) ? redisError(error) : error
  }
}
