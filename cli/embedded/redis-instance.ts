/** The private Redis of a data folder as a file describes it, and how one makes sure that it is the one. */
import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import { isHere, isKnownDead, type ProcessIdentity } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import {
  type Address,
  beatOf,
  dataLock,
  type Running,
  readEarlierVersion,
  readRunning,
  removeRunning,
} from './data-folder.js'
import { takeLock } from './folder-lock.js'

/** Connections that keep the private Redis alive. */
export const USER_NAME = 'rankmill-embedded-user'
/** Connections that look at it and do not count. */
export const LEAVING_NAME = 'rankmill-embedded-leaving'
/** The keeper's own connection. */
export const KEEPER_NAME = 'rankmill-embedded-keeper'

export interface Opened {
  readonly running: Running
  readonly connection: Redis
}

/** How often a keeper shows that it lives. */
export const BEAT_MS = 1000
/** Without a sign for so long, a keeper of another machine is dead. */
const SILENCE_MS = 5 * BEAT_MS
const CONNECT_MS = 2000
/** One that is loading answers so; one that is stopped does not answer. */
const ANSWER_MS = 5000
/** Reading a large append-only file takes its time. */
const LOADING_MS = 120_000

export function urlOf(address: Address): string {
  if ('port' in address) return `redis://:${address.password}@127.0.0.1:${address.port}`
  // The form in which ioredis takes a socket.
  return `redis://localhost/?path=${encodeURIComponent(address.socket).replaceAll('%2F', '/')}`
}

/**
 * Connects to the Redis that runs on a data folder; undefined where none does. The caller disconnects.
 *
 * @throws RankmillError `redis_unavailable` where one of another machine or container has the folder
 */
export async function openRunning(dataDir: string, name: string): Promise<Opened | undefined> {
  const running = readRunning(dataDir)
  if (!running) return refuseEarlierVersion(dataDir)
  if (!isHere(running.keeper)) {
    if (await livesElsewhere(dataDir, running)) throw inUseElsewhere(dataDir, running.keeper)
    // Nobody need wait for it again.
    removeRunning(dataDir)
    return undefined
  }
  // Redis goes with its keeper.
  if (isKnownDead(running.keeper)) return undefined
  // Ports and sockets come again: whatever answers there may be another.
  const isIt = (info: string) => infoField(info, 'run_id') === running.runId
  const connection = await connectTo(running.address, name, isIt)
  return connection && { running, connection }
}

/**
 * Locks are seen by other containers and, on most network file systems, by other machines; where they are not, there is
 * the keeper's beat. Clocks may differ: what counts is that the file's time changes.
 */
async function livesElsewhere(dataDir: string, { keeper }: Running): Promise<boolean> {
  if (isKnownDead(keeper)) return false
  const lock = await takeLock(dataLock(dataDir), 0)
  if (lock === undefined) return true
  closeSync(lock)
  const before = beatOf(dataDir)
  const until = performance.now() + SILENCE_MS
  while (performance.now() < until) {
    await delay(BEAT_MS / 4)
    if (beatOf(dataDir) !== before) return true
  }
  return false
}

export function inUseElsewhere(dataDir: string, { host, pid }: ProcessIdentity): RankmillError {
  return new RankmillError(
    'redis_unavailable',
    `${dataDir} is in use by another machine or container: the private Redis of process ${pid} on ${host} keeps its data ` +
      'there. Work in a folder of your own, or name one Redis for both with REDIS_URL',
  )
}

/** Versions before this one knew no lock that lasts: a Redis of theirs must not get company. */
async function refuseEarlierVersion(dataDir: string): Promise<undefined> {
  const earlier = readEarlierVersion(dataDir)
  if (!earlier) return undefined
  const { port, runId } = earlier
  const isIt = (info: string) => infoField(info, 'run_id') === runId
  const connection = await connectTo({ port, password: '' }, LEAVING_NAME, isIt)
  if (!connection) return undefined
  connection.disconnect()
  throw new RankmillError(
    'redis_unavailable',
    `an earlier version of rankmill still has its Redis on ${dataDir} (port ${port}): end the commands that use it`,
  )
}

/** undefined where nothing answers at the address, or something whose INFO is refused. */
export async function connectTo(
  address: Address,
  name: string,
  accept: (info: string) => boolean,
): Promise<Redis | undefined> {
  const place =
    'port' in address
      ? { host: '127.0.0.1', port: address.port, ...(address.password ? { password: address.password } : {}) }
      : { path: address.socket }
  const connection = new Redis({
    ...place,
    connectionName: name,
    connectTimeout: CONNECT_MS,
    socketTimeout: ANSWER_MS,
    maxLoadingRetryTime: LOADING_MS,
    lazyConnect: true,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
  })
  connection.on('error', () => undefined)
  try {
    await connection.connect()
    if (accept(await connection.info('server'))) return connection
  } catch {
    // Not there (any more).
  }
  connection.disconnect()
  return undefined
}

/** The names of all connections, with repetitions. */
export async function namesOfClients(connection: Redis): Promise<string[]> {
  const list = String(await connection.client('LIST'))
  return Array.from(list.matchAll(/ name=(\S*)/g), (match) => match[1] ?? '')
}
