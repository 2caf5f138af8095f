/**
 * The process that keeps a private Redis: starts it (or adopts one whose keeper was killed), and stops it when no
 * connection named `rankmill-embedded-user` is left. Commands may come, go and be killed; nothing outlives the last of
 * them by more than a moment.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { within } from '../../shared/lifecycle.js'
import { isAlive } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import { withFolderLock } from './folder-lock.js'
import {
  connectTo,
  KEEPER_NAME,
  lockFile,
  namesOfClients,
  type Opened,
  openRunning,
  type Running,
  removeRunning,
  USER_NAME,
  writeRunning,
} from './redis-instance.js'
import type { KeeperAnswer, KeeperTask } from './redis-keeper-process.js'
import type { Launch } from './redis-launch.js'

const LOOK_MS = 200
const READY_MS = 60_000
const SHUTDOWN_MS = 10_000
const TERM_MS = 5000
const COME_BACK_MS = 5000
/** A free port may be taken by somebody else between the question and its use. */
const PORT_ATTEMPTS = 3

const task = JSON.parse(process.argv[2] ?? '{}') as KeeperTask

try {
  const kept = await withFolderLock(lockFile(task.dataDir), adoptOrStart)
  if (kept) await keep(kept)
} catch (error) {
  tell({ type: 'failed', message: error instanceof Error ? error.message : String(error) })
} finally {
  if (process.connected) process.disconnect()
}

function tell(answer: KeeperAnswer): void {
  if (process.connected) process.send?.(answer)
}

async function adoptOrStart(): Promise<Opened | undefined> {
  const opened = await openRunning(task.dataDir, KEEPER_NAME)
  if (opened) {
    tell({ type: 'ready', started: false })
    const keepers = (await namesOfClients(opened.connection)).filter((name) => name === KEEPER_NAME)
    if (keepers.length === 1) return opened
    // Somebody was faster.
    opened.connection.disconnect()
    return undefined
  }
  if (!task.launch) throw new Error('the private Redis ended meanwhile')
  for (let attempt = 1; ; attempt++) {
    try {
      const started = await start(task.launch, await freePort())
      tell({ type: 'ready', started: true })
      return started
    } catch (error) {
      if (attempt === PORT_ATTEMPTS) throw error
    }
  }
}

async function start(launch: Launch, port: number): Promise<Opened> {
  const args = launch.args.map((arg) => arg.replaceAll('{port}', String(port)))
  const child = spawn(launch.command, args, {
    cwd: task.dataDir,
    env: { ...process.env, ...launch.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.on('data', (chunk) => {
    said = `${said}${chunk}`.slice(-2000)
  })
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      said += error.message
      resolve()
    })
    child.once('exit', () => resolve())
  })
  const starting: Running = launch.container ? { port, container: launch.container } : { port, ...pidOf(child) }
  // Before it answers, so that it is found even where this process is killed now.
  writeRunning(task.dataDir, starting)
  const until = Date.now() + READY_MS
  while (Date.now() < until && !(await within(ended, 50))) {
    const connection = await connectTo(port, KEEPER_NAME, () => true)
    if (!connection) continue
    const running = await describe(connection, starting)
    writeRunning(task.dataDir, running)
    return { running, connection }
  }
  child.kill('SIGKILL')
  await removeContainer(starting)
  removeRunning(task.dataDir)
  throw new Error(`${launch.description} did not start: ${said.trim() || lastLines(join(task.dataDir, 'redis.log'))}`)
}

async function describe(connection: Redis, starting: Running): Promise<Running> {
  const info = await connection.info('server')
  const runId = infoField(info, 'run_id') ?? ''
  // Where the command is a script, the server is not the process that was started.
  return starting.container
    ? { ...starting, runId }
    : { ...starting, runId, pid: Number(infoField(info, 'process_id')) }
}

function pidOf(child: ChildProcess): { pid?: number } {
  return child.pid === undefined ? {} : { pid: child.pid }
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

/** @param patientUntil users may take so long to come back, by Date.now() */
async function keep({ running, connection }: Opened, patientUntil = 0): Promise<void> {
  let graceUntil = patientUntil
  let asked = false
  let used = true
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      asked = true
    })
  }
  let away = false
  connection.once('end', () => {
    away = true
  })
  while (!away) {
    // Whoever started this process keeps its channel open until it has connected to Redis, or is gone.
    const found = await names(connection)
    if (found.length > 0) used = process.connected || found.includes(USER_NAME)
    // One that came back ends the wait for the others.
    if (used) graceUntil = 0
    const idle = !used && Date.now() > graceUntil
    if ((asked || idle) && (await stopUnlessUsed(running, connection, () => asked))) return
    await delay(LOOK_MS)
  }
  // Redis ended by itself, or somebody stopped it: those who use it get it back, with what it had written.
  const revived = await withFolderLock(lockFile(task.dataDir), async () => {
    await end(running)
    return used && !asked && task.launch ? start(task.launch, running.port).catch(() => undefined) : undefined
  })
  if (revived) await keep(revived, Date.now() + COME_BACK_MS)
}

/** Of the connections; none where Redis has gone. */
async function names(connection: Redis): Promise<string[]> {
  try {
    return await namesOfClients(connection)
  } catch {
    return []
  }
}

/** Under the lock, so that nobody joins between the last look and the end. */
function stopUnlessUsed(running: Running, connection: Redis, asked: () => boolean): Promise<boolean> {
  return withFolderLock(lockFile(task.dataDir), async () => {
    if (!asked() && (await names(connection)).includes(USER_NAME)) return false
    // Writes the append-only file out. Redis answers by closing the connection.
    await within(
      connection.shutdown().catch(() => undefined),
      SHUTDOWN_MS,
    )
    connection.disconnect()
    await end(running)
    return true
  })
}

async function end(running: Running): Promise<void> {
  await removeContainer(running)
  const { pid } = running
  if (pid !== undefined && !(await isGone(pid, SHUTDOWN_MS))) {
    process.kill(pid, 'SIGTERM')
    if (!(await isGone(pid, TERM_MS))) process.kill(pid, 'SIGKILL')
  }
  removeRunning(task.dataDir)
}

async function isGone(pid: number, ms: number): Promise<boolean> {
  const until = Date.now() + ms
  while (isAlive(pid)) {
    if (Date.now() > until) return false
    await delay(10)
  }
  return true
}

/** One that has ended is gone already. */
function removeContainer({ container }: Running): Promise<void> {
  if (container === undefined) return Promise.resolve()
  return new Promise((resolve) => execFile('docker', ['rm', '--force', container], () => resolve()))
}
