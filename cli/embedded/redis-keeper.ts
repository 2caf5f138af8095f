/**
 * The process that keeps a private Redis: starts it, and stops it when no connection named `rankmill-embedded-user` is left.
 * Commands may come, go and be killed; nothing outlives the last of them by more than a moment. Redis does not outlive its
 * keeper either: where that one was killed, those who still need Redis start another.
 */
import { join } from 'node:path'
import type { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import { isKnownDead, ownIdentity } from '../../shared/process-identity.js'
import { infoField } from '../../shared/redis/connection.js'
import { beat, type Running, readRunning, removeRunning, turnLock } from './data-folder.js'
import { withFolderLock } from './folder-lock.js'
import {
  BEAT_MS,
  connectTo,
  KEEPER_NAME,
  LEAVING_NAME,
  namesOfClients,
  openRunning,
  USER_NAME,
} from './redis-instance.js'
import type { KeeperAnswer, KeeperTask } from './redis-keeper-process.js'
import { end, type Kept, removeContainer, startAt, startRedis } from './redis-start.js'
import { WriteHealth } from './write-health.js'

const LOOK_MS = 200
const SHUTDOWN_MS = 10_000
const COME_BACK_MS = 5000

const task = JSON.parse(process.argv[2] ?? '{}') as KeeperTask

// What Redis writes is for its user alone.
process.umask(0o077)
try {
  const kept = await withFolderLock(turnLock(task.dataDir), startUnlessKept)
  if (kept) await keep(kept)
} catch (error) {
  const { code, message } = RankmillError.from(error, 'redis_unavailable')
  tell({ type: 'failed', code, message })
} finally {
  if (process.connected) process.disconnect()
}

function tell(answer: KeeperAnswer): void {
  if (process.connected) process.send?.(answer)
}

/** undefined where somebody was faster. */
async function startUnlessKept(): Promise<Kept | undefined> {
  const before = readRunning(task.dataDir)
  const opened = await openRunning(task.dataDir, LEAVING_NAME)
  opened?.connection.disconnect()
  const started = opened ? undefined : await startRedis(task, before)
  tell({ type: 'ready', started: started !== undefined })
  return started
}

async function keep(first: Kept): Promise<void> {
  let asked = false
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      asked = true
    })
  }
  const isAsked = () => asked
  let kept: Kept | undefined = first
  // Users may take so long to come back, by Date.now().
  let patientUntil = 0
  while (kept) {
    const { running, connection }: Kept = kept
    const last = await watch(kept, patientUntil, isAsked)
    if (last === 'stopped') return
    // Redis ended by itself, or somebody stopped it: those who use it get it back, with what it had written.
    kept = await withFolderLock(turnLock(task.dataDir), async () => {
      connection.disconnect()
      if (isSomebodyElses()) return undefined
      await end(running, 0)
      if (last === 'used' && !asked) return startAt(running.address, task).catch(() => undefined)
      removeRunning(task.dataDir)
      return undefined
    })
    patientUntil = Date.now() + COME_BACK_MS
  }
}

/**
 * Until Redis has ended, or was stopped because nobody uses it.
 *
 * @returns which of these, and whether somebody used it to the last
 */
async function watch(kept: Kept, patientUntil: number, isAsked: () => boolean): Promise<'stopped' | 'used' | 'unused'> {
  const { server } = kept
  const health = new WriteHealth(join(task.dataDir, 'redis.log'))
  let graceUntil = patientUntil
  let used = true
  const beating = setInterval(() => {
    beat(task.dataDir)
    giveWay(kept.running)
  }, BEAT_MS)
  try {
    while (!server.hasEnded()) {
      const found = await names(kept.connection)
      await health.look(kept.connection)
      if (found.length > 0) {
        const before = used
        // Whoever started this process keeps its channel open until it has connected to Redis, or is gone.
        used = process.connected || found.includes(USER_NAME)
        // A user whose connection broke may be about to come back; one that leaves says so.
        if (before && !used && !found.includes(LEAVING_NAME)) graceUntil ||= Date.now() + 2 * LOOK_MS
      }
      // One that came back ends the wait for the others.
      if (used) graceUntil = 0
      const idle = !used && Date.now() > graceUntil
      if ((isAsked() || idle) && (await stopUnlessUsed(kept, isAsked))) return 'stopped'
      await within(server.ended, LOOK_MS)
      if (kept.connection.status === 'end') await reconnect(kept)
    }
    return used ? 'used' : 'unused'
  } finally {
    clearInterval(beating)
  }
}

/** Somebody closed the keeper's connection, or Redis was too slow for it. */
async function reconnect(kept: Kept): Promise<void> {
  const { address, runId } = kept.running
  const connection = await connectTo(address, KEEPER_NAME, (info) => infoField(info, 'run_id') === runId)
  if (connection) kept.connection = connection
}

/**
 * Where locks are not seen by other machines, another may have taken the folder while this one slept: what Redis would write
 * now would be lost, and what that one writes with it.
 */
function giveWay(running: Running): void {
  if (!isSomebodyElses()) return
  const { server } = running
  if (server && !isKnownDead(server)) process.kill(server.pid, 'SIGKILL')
  void removeContainer(running).finally(() => process.exit(1))
}

function isSomebodyElses(): boolean {
  const own = ownIdentity()
  // The host's name may change.
  const { pid, born } = readRunning(task.dataDir)?.keeper ?? own
  return pid !== own.pid || born !== own.born
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
function stopUnlessUsed({ running, connection }: Kept, asked: () => boolean): Promise<boolean> {
  return withFolderLock(turnLock(task.dataDir), async () => {
    if (!asked() && (await names(connection)).includes(USER_NAME)) return false
    // Writes the append-only file out. Redis answers by closing the connection.
    await within(
      connection.shutdown().catch(() => undefined),
      SHUTDOWN_MS,
    )
    connection.disconnect()
    await end(running, SHUTDOWN_MS)
    removeRunning(task.dataDir)
    return true
  })
}
