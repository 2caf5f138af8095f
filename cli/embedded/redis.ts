/**
 * The Redis of commands that need nothing running: the one that the user names, else a private one that is shared by all
 * commands on the same data folder.
 *
 * A private Redis is kept by a process of its own (redis-keeper.ts), which no command owns: each command holds one
 * connection named `rankmill-embedded-user` while it needs Redis, and the keeper stops Redis when the last of these is
 * gone, be it closed or be its command killed. So there is nothing to count, and nothing to hand over. Where the keeper itself
 * was killed, Redis ends with it, and the commands that still use it start both again, in the same place.
 */
import { join, relative } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import { isKnownDead } from '../../shared/process-identity.js'
import { withoutPassword } from '../../shared/redis/connection.js'
import { openDataDir, readRunning, turnLock } from './data-folder.js'
import { withFolderLock } from './folder-lock.js'
import { LEAVING_NAME, namesOfClients, type Opened, openRunning, USER_NAME, urlOf } from './redis-instance.js'
import { startKeeper } from './redis-keeper-process.js'
import { findLaunch } from './redis-launch.js'

export interface EmbeddedRedisOptions {
  /** Where the user says that Redis is; default: `REDIS_URL`. */
  readonly url?: string
  /** The private Redis keeps its data here; one folder has one server at a time. */
  readonly dataDir: string
  /** Told of steps that take long. */
  readonly log: (line: string) => void
  /** Default: this process's own. `REDIS_URL`, `PATH`, and what redis-launch.ts names. */
  readonly env?: NodeJS.ProcessEnv
}

export interface EmbeddedRedis {
  readonly url: string
  /** Whether this call started it. */
  readonly started: boolean
  /** One line that says what was done. */
  readonly description: string
  /** Lets go of a private Redis; resolves when it has ended, or is seen to have other users. */
  stop(): Promise<void>
}

const START_ATTEMPTS = 5
/** Longer than the keeper takes to end Redis by force. */
const STOP_MS = 30_000
const POLL_MS = 25
const COME_BACK_MS = 10_000

/** @throws RankmillError `redis_unavailable`, with all that was tried */
export async function findOrStartRedis(options: EmbeddedRedisOptions): Promise<EmbeddedRedis> {
  const env = options.env ?? process.env
  const given = options.url ?? env['REDIS_URL']
  if (given)
    return {
      url: given,
      started: false,
      description: `Redis at ${withoutPassword(given)}`,
      stop: async () => undefined,
    }

  const place: Place = { dataDir: openDataDir(options.dataDir), env, log: options.log }
  const running = await joinRunning(place.dataDir)
  if (running) return leaseOf(running, undefined, place)
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt++) {
    const launch = await findLaunch(place)
    const keeper = await startKeeper(place.dataDir, launch)
    try {
      const joined = await joinRunning(place.dataDir)
      if (!joined) continue
      const { mended } = joined.running
      if (keeper.started && mended !== undefined) place.log(mendedLine(mended))
      return leaseOf(joined, keeper.started ? launch.description : undefined, place)
    } finally {
      keeper.release()
    }
  }
  throw new RankmillError(
    'redis_unavailable',
    `the private Redis in ${place.dataDir} ended again and again: see ${join(place.dataDir, 'redis.log')}`,
  )
}

interface Place {
  readonly dataDir: string
  readonly env: NodeJS.ProcessEnv
  readonly log: (line: string) => void
}

/** Under the lock, so that the keeper cannot stop Redis between the look at it and the connection. */
function joinRunning(dataDir: string): Promise<Opened | undefined> {
  return withFolderLock(turnLock(dataDir), () => openRunning(dataDir, USER_NAME))
}

function leaseOf(opened: Opened, launched: string | undefined, place: Place): EmbeddedRedis {
  const { running, connection } = opened
  const { address } = running
  const folder = relative(process.cwd(), place.dataDir)
  const shown = folder === '' || folder.startsWith('..') ? place.dataDir : folder
  const where =
    'socket' in address ? `at ${join(shown, 'redis.sock')}` : `on port ${address.port}, data and password in ${shown}`
  let stopped: Promise<void> | undefined
  let reviving = false
  // A Redis that ended by itself is started again by its keeper, for those who come back.
  connection.options.retryStrategy = () => POLL_MS
  // What it lost while it was used is said to all who use it.
  let told = running.mended
  connection.on('ready', () => {
    const { mended } = readRunning(place.dataDir) ?? {}
    if (mended !== undefined && mended !== told) place.log(mendedLine(mended))
    told = mended
  })
  connection.on('close', async () => {
    if (reviving || stopped) return
    reviving = true
    try {
      await reviveWithoutKeeper(connection, place, () => stopped !== undefined)
    } catch (error) {
      place.log(`the private Redis is gone, and could not be started again: ${String(error)}`)
    } finally {
      reviving = false
    }
  })
  return {
    url: urlOf(address),
    started: launched !== undefined,
    description: launched ? `started ${launched} ${where}` : `sharing the private Redis ${where}`,
    stop: () => {
      stopped ??= leave(opened, place.dataDir)
      return stopped
    },
  }
}

/** Starts another keeper, where the connection stays away because the one before was killed. */
async function reviveWithoutKeeper(connection: Redis, place: Place, isStopped: () => boolean): Promise<void> {
  const { dataDir } = place
  while (!isReady(connection) && !isStopped()) {
    // Under the lock: whoever is starting it again is let finish.
    const running = await withFolderLock(turnLock(dataDir), async () => readRunning(dataDir))
    // Stopped by somebody who meant it.
    if (!running) return
    if (isKnownDead(running.keeper)) {
      const keeper = await startKeeper(dataDir, await findLaunch(place))
      const until = performance.now() + COME_BACK_MS
      while (!isReady(connection) && !isStopped() && performance.now() < until) await delay(POLL_MS)
      keeper.release()
    }
    await delay(POLL_MS)
  }
}

/** Renames the connection, so that it no longer counts as a user, and watches what the keeper does. */
async function leave({ running, connection }: Opened, dataDir: string): Promise<void> {
  const until = Date.now() + STOP_MS
  try {
    // On its way back, it would be seen without users soon, but not by us.
    while (!isReady(connection) && isKept(dataDir) && Date.now() < until) await delay(POLL_MS)
    if (!isReady(connection)) return
    connection.options.retryStrategy = () => null
    await connection.client('SETNAME', LEAVING_NAME)
    while (Date.now() < until && !(await namesOfClients(connection)).includes(USER_NAME)) await delay(POLL_MS)
  } catch {
    // The connection ended: Redis is going.
    const server = readRunning(dataDir)?.server ?? running.server
    while (server !== undefined && !isKnownDead(server) && Date.now() < until) await delay(POLL_MS)
  } finally {
    // Of a connection that has ended ioredis would wait two seconds for the end, and the process with it.
    if (connection.status !== 'end') connection.disconnect()
  }
}

function mendedLine(mended: string): string {
  return `the private Redis did not load its data: ${mended}`
}

function isKept(dataDir: string): boolean {
  const running = readRunning(dataDir)
  return running !== undefined && !isKnownDead(running.keeper)
}

function isReady(connection: Redis): boolean {
  return connection.status === 'ready'
}
