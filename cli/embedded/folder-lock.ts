/**
 * Locks between processes, kept by the operating system: a lock ends with the last process that has the locked file open,
 * however it ends, and containers of one machine see each other's. So none is ever stale, and no pid has to be believed.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { tryLock } from 'fs-native-extensions'
import { unwritable } from '../../producer/batch/unwritable.js'
import { RankmillError } from '../../shared/errors.js'
import { ownIdentity } from '../../shared/process-identity.js'

const POLL_MS = 20
const PATIENCE_MS = 90_000

/**
 * Runs `work` while nobody else, in this process or another, holds the lock.
 *
 * @throws RankmillError `redis_unavailable` when a live process holds it for too long
 */
export async function withFolderLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  const lock = await takeLock(file, PATIENCE_MS)
  if (lock === undefined) {
    throw new RankmillError(
      'redis_unavailable',
      `${holderOf(file)} has kept ${file} locked for ${PATIENCE_MS / 1000} s: end it`,
    )
  }
  try {
    return await work()
  } finally {
    closeSync(lock)
  }
}

/**
 * @returns the locked file, for a child to inherit and for this process to close: the lock ends when nobody has it any more;
 *   undefined where others held it for `patienceMs`
 */
export async function takeLock(file: string, patienceMs: number): Promise<number | undefined> {
  const until = performance.now() + patienceMs
  const fd = openSync(file, 'a+', 0o600)
  try {
    while (!isGranted(fd, file)) {
      if (performance.now() >= until) {
        closeSync(fd)
        return undefined
      }
      await delay(POLL_MS)
    }
  } catch (error) {
    closeSync(fd)
    throw error
  }
  try {
    const { pid, host } = ownIdentity()
    ftruncateSync(fd)
    writeSync(fd, `process ${pid} on ${host}`)
    return fd
  } catch (error) {
    closeSync(fd)
    throw unwritable(file, error)
  }
}

function isGranted(fd: number, file: string): boolean {
  try {
    return tryLock(fd)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new RankmillError(
      'redis_unavailable',
      `${file} cannot be locked (${code ?? message}): a private Redis needs a file system that has locks`,
      {},
      { cause: error },
    )
  }
}

/** Who holds a lock, or held it last. */
export function holderOf(file: string): string {
  return readFileSync(file, 'utf8') || 'another process'
}
