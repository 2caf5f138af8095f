/** A lock between processes: a file that holds its owner's pid, so that one left by a killed owner can be told. */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { RankmillError } from '../../shared/errors.js'
import { isAlive } from '../../shared/process-identity.js'

const POLL_MS = 20
const PATIENCE_MS = 90_000
let taken = 0

/**
 * Runs `work` while nobody else, in this process or another, holds the lock.
 *
 * @throws RankmillError `redis_unavailable` when a live process holds it for too long
 */
export async function withFolderLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(file), { recursive: true })
  const own = `${file}.${process.pid}.${++taken}`
  const until = Date.now() + PATIENCE_MS
  writeFileSync(own, String(process.pid))
  try {
    while (!tryLink(own, file)) {
      const owner = ownerOf(file)
      if (owner !== undefined && !isAlive(owner)) takeAway(file, owner, `${own}.stale`)
      else if (Date.now() < until) await delay(POLL_MS)
      else
        throw new RankmillError(
          'redis_unavailable',
          `process ${owner} keeps ${file} locked: end it, or delete that file`,
        )
    }
    try {
      return await work()
    } finally {
      rmSync(file, { force: true })
    }
  } finally {
    rmSync(own, { force: true })
  }
}

/** A link, unlike a new file, appears with its content. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function ownerOf(file: string): number | undefined {
  try {
    return Number(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** Renames before it deletes, so that a lock which somebody took in between is noticed and put back. */
function takeAway(file: string, deadOwner: number, aside: string): void {
  try {
    renameSync(file, aside)
  } catch {
    return
  }
  if (ownerOf(aside) !== deadOwner) tryLink(aside, file)
  rmSync(aside, { force: true })
}
