/** Which process of which machine something belongs to, and whether that process still lives. */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'

export interface ProcessIdentity {
  readonly host: string
  readonly pid: number
  /** Start of the process, which tells it from a later one with its number; empty where the system does not say. */
  readonly born: string
}

export function ownIdentity(): ProcessIdentity {
  return { host: hostname(), pid: process.pid, born: bornOf(process.pid) }
}

/** Whether a process of this machine lives. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Whether a process is known to have ended; one of another machine never is. */
export function isKnownDead({ host, pid, born }: ProcessIdentity): boolean {
  if (host !== hostname()) return false
  return !isAlive(pid) || born !== bornOf(pid)
}

function bornOf(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    // After the command's name, which may hold anything but ends with the last bracket.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')
    return `${boot}/${fields?.[19] ?? ''}`
  } catch {
    return ''
  }
}
