/** Which process of which machine something belongs to, and whether that process still lives. */
import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'

export interface ProcessIdentity {
  readonly host: string
  readonly pid: number
  /** Boot of the machine and start of the process: tells it from a later one with its number; empty where unknown. */
  readonly born: string
  /** The pid namespace: containers count their processes each for itself. Not told by earlier versions, nor by every system. */
  readonly pids?: string
}

/** The namespace of a machine's own processes, outside of any container (include/linux/proc_ns.h). */
const OUTSIDE_CONTAINERS = 'pid:[4026531836]'

export function ownIdentity(): ProcessIdentity {
  return identityOf(process.pid)
}

/** Of a process of this place. */
export function identityOf(pid: number): ProcessIdentity {
  const pids = pidNamespace()
  return { host: hostname(), pid, born: bornOf(pid), ...(pids === undefined ? {} : { pids }) }
}

/** Whether a process of this place lives; one that has ended and was not collected by its parent does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  return statOf(pid)?.state !== 'Z'
}

/** Whether a process is of this place: the same boot of the same machine, and the same container. */
export function isHere({ host, born, pids }: ProcessIdentity): boolean {
  const own = ownIdentity()
  if (own.pids === undefined || pids === undefined) return host === own.host
  return pids === own.pids && bootOf(born) === bootOf(own.born)
}

/** Whether a process is known to have ended; one of another machine or container never is, unless before a reboot. */
export function isKnownDead(identity: ProcessIdentity): boolean {
  if (!isHere(identity)) return wasRebooted(identity)
  if (!isAlive(identity.pid)) return true
  // Of other users' processes the system may say no more than that they live.
  return statOf(identity.pid) !== undefined && identity.born !== bornOf(identity.pid)
}

/** A container's name may be that of one on another machine; the machines' own are told apart by theirs. */
function wasRebooted({ host, born, pids }: ProcessIdentity): boolean {
  const own = ownIdentity()
  const outside = pids === OUTSIDE_CONTAINERS && own.pids === OUTSIDE_CONTAINERS
  return outside && host === own.host && bootOf(born) !== bootOf(own.born)
}

function bootOf(born: string): string {
  return born.split('/')[0] ?? ''
}

function bornOf(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return `${boot}/${statOf(pid)?.startedAt ?? ''}`
  } catch {
    return ''
  }
}

/** undefined where there is no such process, or the system does not say. */
function statOf(pid: number): { state: string | undefined; startedAt: string | undefined } | undefined {
  try {
    // After the command's name, which may hold anything but ends with the last bracket.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')
    return { state: fields?.[0], startedAt: fields?.[19] }
  } catch {
    return undefined
  }
}

function pidNamespace(): string | undefined {
  try {
    return readlinkSync('/proc/self/ns/pid')
  } catch {
    return undefined
  }
}
