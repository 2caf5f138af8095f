/** Redis connections, and the checks without which nothing starts. */
import { Redis, type RedisOptions } from 'ioredis'
import { RankmillError } from '../errors.js'
import type { Options } from '../options.js'
import { ClusterConnection, type RedisSettings } from './cluster-connection.js'
import { ConnectionWatch } from './connection-watch.js'
import { gatherWrites } from './gathered-writes.js'
import { redisError, redisFault } from './redis-errors.js'
import { parseRedisUrl, type RedisAddress, type RedisNode } from './redis-url.js'
import { PrimaryConnector } from './sentinel-connector.js'
import { SlotOwner } from './slot-owner.js'
import { backoffMs } from './until-passes.js'

/**
 * A connection that owes an answer and brings nothing for so long is opened anew. BullMQ's blocking commands are answered
 * after 10 s at the latest.
 */
const SILENCE_MS = 12_000
/** However short a command's own limit is: a slow answer is no reason to reconnect. */
const SHORTEST_SILENCE_MS = 1000
const SUBSCRIBER_BEAT_MS = 5000
/** Where to connect, and for which keys: on a cluster these decide on the node. */
export type Target = Pick<Options, 'redis' | 'prefix'>

const QUOTED = /, with args beginning with: .*/

/** BullMQ's recommended minimum; older servers lack commands that its scripts call. */
const MINIMUM_VERSION = '6.2.0'

/**
 * Connects a producer: commands fail at once while Redis is away, so that callers learn of it and can decide. Where a
 * failover is nothing special, on a cluster or by sentinels, they wait for it, for `commandTimeoutMs`.
 *
 * @throws RankmillError `redis_unavailable`, `redis_denied`, `redis_read_only`, `redis_misconfigured`
 */
export async function connectProducer(options: Target & Pick<Options, 'commandTimeoutMs'>): Promise<Redis> {
  const { commandTimeoutMs } = options
  const fails = parseRedisUrl(options.redis).kind === 'server'
  return connect(options, {
    enableOfflineQueue: !fails,
    maxRetriesPerRequest: fails ? 1 : null,
    commandTimeout: commandTimeoutMs,
    socketTimeout: Math.max(commandTimeoutMs, SHORTEST_SILENCE_MS),
    connectionName: 'rankmill-producer',
  })
}

/**
 * Connects a worker: commands wait until Redis is back, since a worker has nobody to complain to.
 *
 * @throws RankmillError `redis_unavailable`, `redis_denied`, `redis_read_only`, `redis_misconfigured`
 */
export async function connectWorker(target: Target, name = 'rankmill-worker', silenceMs = SILENCE_MS): Promise<Redis> {
  return connect(target, { maxRetriesPerRequest: null, socketTimeout: silenceMs, connectionName: name })
}

/**
 * A second connection like the first, for messages. It is asked regularly whether it still leads to a primary: nothing else
 * would tell a quiet channel from a connection that is gone. Comes back by itself, with its subscriptions.
 */
export function openSubscriber(redis: Redis, connectionName: string, beatMs = SUBSCRIBER_BEAT_MS): Redis {
  const subscriber = redis.duplicate({
    enableOfflineQueue: true,
    maxRetriesPerRequest: null,
    commandTimeout: undefined,
    connectionName,
    lazyConnect: false,
    autoResubscribe: false,
  })
  subscriber.on('error', forgetCommand)
  keepSubscriptions(subscriber)
  new ConnectionWatch(subscriber, { beatMs, beat: () => leaveReplica(subscriber) })
  return subscriber
}

/**
 * Subscribes again to what was subscribed to, whenever the connection is back. ioredis does so itself, and lets nobody catch what
 * Redis refuses it with (BUSY, NOPERM): that would end the process.
 */
function keepSubscriptions(subscriber: Redis): void {
  const channels = new Set<string>()
  const subscribe = subscriber.subscribe.bind(subscriber) as (...names: string[]) => Promise<unknown>
  subscriber.subscribe = ((...names: string[]) => {
    for (const name of names) channels.add(name)
    return subscribe(...names)
  }) as Redis['subscribe']
  subscriber.on('ready', () => {
    if (channels.size > 0) subscribe(...channels).catch(() => subscriber.disconnect(true))
  })
}

async function leaveReplica(subscriber: Redis): Promise<unknown> {
  // Before RESP3 a subscriber may not ask for more.
  if (subscriber.mode === 'subscriber') return subscriber.ping()
  const isReplica = infoField(await subscriber.info('replication'), 'role') === 'slave'
  if (isReplica) subscriber.disconnect(true)
  return isReplica
}

type ConnectionSettings = Pick<
  RedisOptions,
  'enableOfflineQueue' | 'maxRetriesPerRequest' | 'commandTimeout' | 'socketTimeout' | 'connectionName'
>

/** The one place where a connection is made from a URL. BullMQ's and all others are duplicates of it. */
async function connect({ redis: url, prefix }: Target, settings: ConnectionSettings): Promise<Redis> {
  const address = parseRedisUrl(url)
  const redis = gatherWrites(
    open(address, prefix, {
      ...settings,
      lazyConnect: true,
      connectTimeout: 5000,
      keepAlive: 10_000,
      retryStrategy: backoffMs,
      reconnectOnError,
    }),
  )
  let lastError: unknown
  // Without a listener ioredis prints every failed reconnect; the connection's state is watched elsewhere.
  redis.on('error', (error) => {
    forgetCommand(error)
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

function open({ kind, url, nodes, primary, tls }: RedisAddress, prefix: string, settings: RedisSettings): Redis {
  if (kind === 'server') return new Redis(url.href, settings)
  // What the URL says of user, password, database and TLS.
  const {
    host: _,
    port: __,
    replyMapping: ___,
    ...common
  } = new Redis(url.href, { ...settings, lazyConnect: true }).options
  if (kind === 'cluster') {
    const ask = (node: RedisNode) => new Redis({ ...common, ...ASKING, ...node })
    return new ClusterConnection(new SlotOwner(prefix, nodes, ask), common)
  }
  const sentinelTls = tls ? { enableTLSForSentinelMode: true, sentinelTLS: {} } : {}
  return new Redis({
    ...common,
    ...sentinelTls,
    sentinels: [...nodes],
    name: primary,
    sentinelCommandTimeout: ASKING.commandTimeout,
    Connector: PrimaryConnector,
  })
}

/** For a question about where to go: nodes that do not answer soon are passed over. */
const ASKING = {
  lazyConnect: true,
  enableReadyCheck: false,
  enableOfflineQueue: true,
  maxRetriesPerRequest: 0,
  retryStrategy: null,
  connectTimeout: 2000,
  commandTimeout: 2000,
  connectionName: 'rankmill-finder',
} as const

/** By the options of a connection, which no two share: when it was last opened anew. */
const movedAt = new WeakMap<object, number>()
const MOVE_AGAIN_MS = 1000

/**
 * After a failover the name leads elsewhere, but the connection stays with what has become a replica, until it is opened
 * anew: once for all the commands that find out, and again while it lasts. They fail; their callers say whether they may be
 * made twice.
 */
function reconnectOnError(this: unknown, error: Error): boolean {
  forgetCommand(error)
  if (!/\b(READONLY|UNBLOCKED|MASTERDOWN) /.test(error.message)) return false
  const connection = this as RedisOptions
  const now = performance.now()
  if (now - (movedAt.get(connection) ?? Number.NEGATIVE_INFINITY) < MOVE_AGAIN_MS) return false
  movedAt.set(connection, now)
  return true
}

/**
 * ioredis hangs the arguments of a command on its error: passwords, texts. Nobody, no log either, is to see them; nor those
 * that Redis quotes of a command that it does not know.
 */
function forgetCommand(error: Error & { command?: unknown }): void {
  delete error.command
  error.message = error.message.replace(QUOTED, '')
  error.stack = error.stack?.replace(QUOTED, '') ?? ''
}

/** A Redis URL without its password, for logs and messages. */
export function withoutPassword(url: string): string {
  return parseRedisUrl(url).shown
}

function explain(error: unknown, lastError: unknown, url: string): RankmillError {
  for (const known of [error, lastError]) if (known instanceof RankmillError) return known
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
 * @throws RankmillError `redis_misconfigured`, or `redis_read_only` where it is a replica
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
  if (infoField(info, 'role') === 'slave') {
    throw new RankmillError('redis_read_only', 'Redis is a replica, which takes no writes: name its primary')
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
