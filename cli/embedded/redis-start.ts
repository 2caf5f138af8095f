/** Starts and ends the Redis of a data folder, for its keeper. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, readFileSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import { identityOf, isHere, isKnownDead, ownIdentity, type ProcessIdentity } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import { mendAppendOnlyFile } from './append-only-file.js'
import {
  type Address,
  dataLock,
  hideFiles,
  type Running,
  readRunning,
  removeRunning,
  writeRunning,
} from './data-folder.js'
import { holderOf, takeLock } from './folder-lock.js'
import { connectTo, inUseElsewhere, KEEPER_NAME } from './redis-instance.js'
import type { KeeperTask } from './redis-keeper-process.js'
import { type ServerProcess, startServer } from './redis-server-process.js'

const READY_MS = 60_000
const TERM_MS = 5000
/** For the Redis of a killed keeper to write out what it has, and end. */
const PREDECESSOR_MS = 15_000
/** A file system may have no sockets, and a free port may be taken between the question and its use. */
const ATTEMPTS = 3
/** Bytes of a socket's path: the system's limit is 104 with the zero at its end, on some 108. */
const MAX_SOCKET_BYTES = 100

export interface Kept {
  readonly running: Running
  connection: Redis
  readonly server: ServerProcess
}

/**
 * To be called in turn, where no Redis runs on the folder.
 *
 * @param before what is known of the one before
 * @throws RankmillError `redis_unavailable` where somebody else's Redis has the folder, or an Error that says why none starts
 */
export async function startRedis(task: KeeperTask, before: Running | undefined): Promise<Kept> {
  if (before && isKnownDead(before.keeper)) await end(before, 0)
  hideFiles(task.dataDir)
  for (let attempt = 1; ; attempt++) {
    try {
      return await startAt(await addressFor(task, attempt, before), task)
    } catch (error) {
      if (attempt === ATTEMPTS || error instanceof RankmillError) throw error
    }
  }
}

async function addressFor(
  { dataDir, launch }: KeeperTask,
  attempt: number,
  before: Running | undefined,
): Promise<Address> {
  // Those who used it before its keeper was killed look for it where it was.
  if (attempt === 1 && before && 'port' in before.address && isHere(before.keeper)) return before.address
  const socket = join(dataDir, 'redis.sock')
  const fits = Buffer.byteLength(socket) <= MAX_SOCKET_BYTES
  if (fits && attempt === 1 && !launch.container) return { socket }
  return { port: await freePort(), password: randomBytes(24).toString('hex') }
}

/** At the very address: for those who know it. Data that it does not load are mended first. */
export async function startAt(address: Address, task: KeeperTask): Promise<Kept> {
  const { dataDir, launch } = task
  const log = join(dataDir, 'redis.log')
  const before = existsSync(log) ? statSync(log).size : 0
  try {
    return await launchAt(address, task)
  } catch (error) {
    if (error instanceof RankmillError || !existsSync(log)) throw error
    const keptIn = join(dataDir, `damaged-${new Date().toISOString().replaceAll(':', '-')}`)
    const done = mendAppendOnlyFile(dataDir, launch, readFileSync(log).subarray(before).toString(), keptIn)
    if (done === undefined) throw error
    if (!done.isMended) throw new RankmillError('redis_unavailable', `${String(error)}; ${done.what}`)
    return await launchAt(
      address,
      task,
      `its append-only file was damaged (by a full disk?): ${done.what}, kept in ${keptIn}`,
    )
  }
}

/** @param mended what had to be done to its data */
async function launchAt(address: Address, { launch, dataDir }: KeeperTask, mended?: string): Promise<Kept> {
  const lock = await takeLock(dataLock(dataDir), PREDECESSOR_MS)
  if (lock === undefined) throw inUse(dataDir)
  const server = startServer(launch, address, dataDir, lock)
  // A container does not inherit it.
  void server.ended.then(() => closeSync(lock))
  const { container } = launch
  const starting: Running = {
    ...{ address, keeper: ownIdentity() },
    ...(container === undefined ? {} : { container }),
    ...(mended === undefined ? {} : { mended }),
  }
  // Before it answers, so that others see whose folder this is even where this process is killed now.
  writeRunning(dataDir, starting)
  const until = Date.now() + READY_MS
  while (Date.now() < until && !(await within(server.ended, 50))) {
    const connection = await connectTo(address, KEEPER_NAME, () => true)
    if (!connection) continue
    if (!(await isOurs(connection, container === undefined ? dataDir : '/data'))) {
      connection.disconnect()
      continue
    }
    const running = await describe(connection, starting)
    writeRunning(dataDir, running)
    return { running, connection, server }
  }
  server.kill()
  await removeContainer(starting)
  await server.ended
  removeRunning(dataDir)
  throw new Error(
    `${launch.description} did not start: ${server.said().trim() || lastLines(join(dataDir, 'redis.log'))}`,
  )
}

/** Somebody else's may have the port. */
async function isOurs(connection: Redis, expectedDir: string): Promise<boolean> {
  const [, dir] = (await connection.config('GET', 'dir')) as string[]
  return dir === expectedDir
}

function inUse(dataDir: string): RankmillError {
  const running = readRunning(dataDir)
  if (running && !isKnownDead(running.keeper) && running.keeper.pids !== ownIdentity().pids)
    return inUseElsewhere(dataDir, running.keeper)
  return new RankmillError(
    'redis_unavailable',
    `a Redis that does not answer has its data in ${dataDir} (started by ${holderOf(dataLock(dataDir))}): end it`,
  )
}

async function describe(connection: Redis, starting: Running): Promise<Running> {
  const info = await connection.info('server')
  const runId = infoField(info, 'run_id') ?? ''
  if (starting.container) return { ...starting, runId }
  return { ...starting, runId, server: identityOf(Number(infoField(info, 'process_id'))) }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

function lastLines(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim().split('\n').slice(-5).join(' | ')
  } catch {
    return 'it said nothing'
  }
}

/** @param patienceMs for Redis to end by itself */
export async function end(running: Running, patienceMs: number): Promise<void> {
  await removeContainer(running)
  const { server } = running
  if (server && !(await isGone(server, patienceMs))) {
    process.kill(server.pid, 'SIGTERM')
    if (!(await isGone(server, TERM_MS))) process.kill(server.pid, 'SIGKILL')
  }
}

async function isGone(server: ProcessIdentity, ms: number): Promise<boolean> {
  const until = Date.now() + ms
  while (!isKnownDead(server)) {
    if (Date.now() > until) return false
    await delay(10)
  }
  return true
}

/** One that has ended is gone already. */
export function removeContainer({ container }: Running): Promise<void> {
  if (container === undefined) return Promise.resolve()
  return new Promise((resolve) => execFile('docker', ['rm', '--force', container], () => resolve()))
}
