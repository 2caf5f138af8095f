/**
 * A lock between processes, for what runs before anything is installed: a file that says who holds it and whose time of
 * change shows that he lives, so that one left by a killed owner can be told.
 */
import { randomUUID } from 'node:crypto'
import {
  closeSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  utimes,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { dirname } from 'node:path'

const POLL_MS = 100
const BEAT_MS = 1000
/** An owner whose process cannot be seen from here, and who gave no sign for so long, has ended. */
const SILENCE_MS = 5 * BEAT_MS

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
  const own = `${file}.${randomUUID()}`
  // Unlike any other, so that a lock can be told from the next.
  const text = JSON.stringify({ ...identityOf(process.pid), own })
  writeFileSync(own, text)
  try {
    await take(file, own, onWait)
    const beating = setInterval(() => {
      const now = new Date()
      // Where somebody cleared the folder there is nothing left to hold.
      utimes(own, now, now, () => undefined)
    }, BEAT_MS)
    try {
      return await work()
    } finally {
      clearInterval(beating)
      if (read(file)?.text === text) rmSync(file, { force: true })
    }
  } finally {
    rmSync(own, { force: true })
  }
}

async function take(file, own, onWait) {
  let told = false
  let seen
  while (!tryLink(own, file)) {
    const found = read(file)
    if (!found) {
      await pause()
      continue
    }
    const now = performance.now()
    // Clocks may differ between machines: what counts is that the file's time changes.
    if (seen?.text !== found.text || seen.time !== found.time) seen = { ...found, at: now }
    const { pid, state } = stateOf(found.text)
    if (state === 'dead' || (state === 'unknown' && now - seen.at > SILENCE_MS)) {
      takeAway(file, found.text, `${own}.stale`)
      continue
    }
    if (!told) onWait(pid)
    told = true
    await pause()
  }
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, POLL_MS))
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

/** undefined where it is gone. */
function read(file) {
  try {
    const fd = openSync(file, 'r')
    try {
      return { text: readFileSync(fd, 'utf8'), time: fstatSync(fd).mtimeMs }
    } finally {
      closeSync(fd)
    }
  } catch {
    return undefined
  }
}

/** Of the owner: another machine's or container's process, and one whose start the system does not tell, is unknown. */
function stateOf(text) {
  let owner
  try {
    owner = JSON.parse(text)
  } catch {
    return { state: 'unknown' }
  }
  const { pid, place, born } = owner
  if (place !== identityOf(process.pid).place) return { pid, state: 'unknown' }
  if (!isAlive(pid)) return { pid, state: 'dead' }
  if (born === '') return { pid, state: 'unknown' }
  return { pid, state: identityOf(pid).born === born ? 'alive' : 'dead' }
}

/** As shared/process-identity.ts: the boot of the machine, the container's pid namespace, and the start of the process. */
function identityOf(pid) {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const born = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ')[19]
    return { pid, place: `${boot} ${readlinkSync('/proc/self/ns/pid')}`, born }
  } catch {
    return { pid, place: hostname(), born: '' }
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
function takeAway(file, text, aside) {
  try {
    renameSync(file, aside)
  } catch {
    return
  }
  if (read(aside)?.text !== text) tryLink(aside, file)
  rmSync(aside, { force: true })
}
