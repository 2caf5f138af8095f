/**
 * The Redis of commands that need nothing running: the one that the user names, else a private one that is shared by all
 * commands on the same data folder.
 *
 * A private Redis is kept by a process of its own (redis-keeper.ts), which no command owns: each command holds one
 * connection named `rankmill-embedded-user` while it needs Redis, and the keeper stops Redis when the last of these is
 * gone, be it closed or be its command killed. So there is nothing to count, and nothing to hand over.
 */
import { mkdirSync, realpathSync } from 'node:fs'
import { join, relative } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import { isAlive } from '../../shared/process-identity.js'
import { withoutPassword } from '../../shared/redis/connection.js'
import { withFolderLock } from './folder-lock.js'
import {
  KEEPER_NAME,
  LEAVING_NAME,
  lockFile,
  namesOfClients,
  type Opened,
  openRunning,
  type Running,
  USER_NAME,
} from './redis-instance.js'
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

  mkdirSync(options.dataDir, { recursive: true })
  const dataDir = realpathSync(options.dataDir)
  const running = await joinRunning(dataDir)
  if (running) return leaseOf(running, undefined, dataDir)
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt++) {
    // One that runs without its keeper is adopted; it needs no launch.
    const orphan = await openRunning(dataDir, LEAVING_NAME)
    orphan?.connection.disconnect()
    const launch = orphan ? undefined : await findLaunch({ dataDir, env, log: options.log })
    const keeper = await startKeeper(dataDir, launch)
    try {
      const joined = await joinRunning(dataDir)
      if (joined) return leaseOf(joined, keeper.started ? launch?.description : undefined, dataDir)
    } finally {
      keeper.release()
    }
  }
  throw new RankmillError(
    'redis_unavailable',
    `the private Redis in ${dataDir} ended again and again: see ${join(dataDir, 'redis.log')}`,
  )
}

/** Under the lock, so that the keeper cannot stop Redis between the look at it and the connection. */
function joinRunning(dataDir: string): Promise<Opened | undefined> {
  return withFolderLock(lockFile(dataDir), async () => {
    const opened = await openRunning(dataDir, USER_NAME)
    if (opened && (await namesOfClients(opened.connection)).includes(KEEPER_NAME)) return opened
    opened?.connection.disconnect()
    return undefined
  })
}

function leaseOf({ running, connection }: Opened, launched: string | undefined, dataDir: string): EmbeddedRedis {
  const folder = relative(process.cwd(), dataDir)
  const place = `on port ${running.port}, data in ${folder === '' || folder.startsWith('..') ? dataDir : folder}`
  let stopped: Promise<void> | undefined
  // A Redis that ended by itself is started again by its keeper, for those who come back.
  connection.options.retryStrategy = () => POLL_MS
  return {
    url: `redis://127.0.0.1:${running.port}`,
    started: launched !== undefined,
    description: launched ? `started ${launched} ${place}` : `sharing the private Redis ${place}`,
    stop: () => {
      stopped ??= leave(running, connection)
      return stopped
    },
  }
}

/** Renames the connection, so that it no longer counts as a user, and watches what the keeper does. */
async function leave(running: Running, connection: Redis): Promise<void> {
  const until = Date.now() + STOP_MS
  try {
    await connection.client('SETNAME', LEAVING_NAME)
    while (Date.now() < until && !(await namesOfClients(connection)).includes(USER_NAME)) await delay(POLL_MS)
  } catch {
    // The connection ended: Redis is going.
    while (running.pid !== undefined && isAlive(running.pid) && Date.now() < until) await delay(POLL_MS)
  } finally {
    connection.disconnect()
  }
}
