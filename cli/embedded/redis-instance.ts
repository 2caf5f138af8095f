/** The private Redis of a data folder as a file describes it, and how one makes sure that it is the one. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { infoField } from '../../shared/redis/connection.js'

/** Connections that keep the private Redis alive. */
export const USER_NAME = 'rankmill-embedded-user'
/** Connections that look at it and do not count. */
export const LEAVING_NAME = 'rankmill-embedded-leaving'
/** The one connection of the keeper: no connection, no keeper. */
export const KEEPER_NAME = 'rankmill-embedded-keeper'

export interface Running {
  readonly port: number
  /** What Redis calls this run of itself; unknown until it answers for the first time. */
  readonly runId?: string
  /** The server's own process; undefined for one in a container. */
  readonly pid?: number
  /** The container's name. */
  readonly container?: string
}

export interface Opened {
  readonly running: Running
  readonly connection: Redis
}

const CONNECT_MS = 2000
/** Reading a large append-only file takes its time. */
const LOADING_MS = 120_000

export function lockFile(dataDir: string): string {
  return join(dataDir, 'embedded.lock')
}

function runningFile(dataDir: string): string {
  return join(dataDir, 'embedded.json')
}

/** Written whole or not at all. */
export function writeRunning(dataDir: string, running: Running): void {
  const file = runningFile(dataDir)
  writeFileSync(`${file}.new`, `${JSON.stringify(running)}\n`)
  renameSync(`${file}.new`, file)
}

export function removeRunning(dataDir: string): void {
  rmSync(runningFile(dataDir), { force: true })
}

function readRunning(dataDir: string): Running | undefined {
  try {
    return JSON.parse(readFileSync(runningFile(dataDir), 'utf8')) as Running
  } catch {
    return undefined
  }
}

/** Connects to the Redis that runs on a data folder; undefined where none does. The caller disconnects. */
export async function openRunning(dataDir: string, name: string): Promise<Opened | undefined> {
  const running = readRunning(dataDir)
  if (!running) return undefined
  // Ports and pids come again: whatever answers there may be another.
  const isIt = (info: string) =>
    running.runId ? infoField(info, 'run_id') === running.runId : infoField(info, 'process_id') === String(running.pid)
  const connection = await connectTo(running.port, name, isIt)
  return connection && { running, connection }
}

/** undefined where nothing answers on the port, or something whose INFO is refused. */
export async function connectTo(
  port: number,
  name: string,
  accept: (info: string) => boolean,
): Promise<Redis | undefined> {
  const connection = new Redis({
    host: '127.0.0.1',
    port,
    connectionName: name,
    connectTimeout: CONNECT_MS,
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
