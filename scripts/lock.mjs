/** A lock between processes: a file that holds its owner's pid, so that one left by a killed owner can be told. */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

const POLL_MS = 100

/**
 * Runs `work` while no other process holds the lock.
 *
 * @template T
 * @param {string} file
 * @param {() => Promise<T>} work
 * @param {(pid: number) => void} onWait told once, when another process holds the lock
 * @returns {Promise<T>}
 */
export async function locked(file, work, onWait) {
  mkdirSync(dirname(file), { recursive: true })
  const own = `${file}.${process.pid}`
  writeFileSync(own, String(process.pid))
  try {
    for (let told = false; !tryLink(own, file); ) {
      const owner = readOwner(file)
      if (owner !== undefined && !isAlive(owner)) {
        takeAway(file, owner)
        continue
      }
      if (owner !== undefined && !told) onWait(owner)
      told ||= owner !== undefined
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
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
function tryLink(from, to) {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if (error.code === 'EEXIST') return false
    throw error
  }
}

function readOwner(file) {
  try {
    return Number(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

/** Renames before it deletes, so that a lock which somebody took in between is noticed and put back. */
function takeAway(file, deadOwner) {
  const aside = `${file}.${process.pid}.stale`
  try {
    renameSync(file, aside)
  } catch {
    return
  }
  if (readOwner(aside) !== deadOwner) tryLink(aside, file)
  rmSync(aside, { force: true })
}
