/** What is in the data folder of a private Redis besides its data: who has it, where Redis is, and locks; ours alone. */
import {
  chmodSync,
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { unwritable, whyUnmade } from '../../producer/batch/unwritable.js'
import type { ProcessIdentity } from '../../shared/process-identity.js'

/** A Unix socket, which its folder protects; where there cannot be one, a port of this machine and a password. */
export type Address = { readonly socket: string } | { readonly port: number; readonly password: string }

export interface Running {
  readonly address: Address
  /** The process that answers for it. */
  readonly keeper: ProcessIdentity
  /** What Redis calls this run of itself; unknown until it answers for the first time. */
  readonly runId?: string
  /** Redis itself; undefined until it answers, and for one in a container. */
  readonly server?: ProcessIdentity
  /** The container's name. */
  readonly container?: string
  /** What had to be done to its data before it loaded them. */
  readonly mended?: string
}

/**
 * Makes the folder ours alone.
 *
 * @returns its real path
 * @throws RankmillError `output_unwritable` where it cannot be made, or is somebody else's
 */
export function openDataDir(path: string): string {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
    const dataDir = realpathSync(path)
    chmodSync(dataDir, 0o700)
    return dataDir
  } catch (error) {
    throw unwritable(`no private Redis can keep its data in ${path}`, whyUnmade(path, error))
  }
}

/** Takes every right of others away: what earlier versions had Redis write could be read by all. */
export function hideFiles(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    const stat = lstatSync(path)
    if (!stat.isSymbolicLink() && (stat.mode & 0o077) !== 0) chmodSync(path, stat.mode & 0o700)
    if (stat.isDirectory()) hideFiles(path)
  }
}

/** Held while somebody looks for Redis, joins, starts or stops it: moments. */
export function turnLock(dataDir: string): string {
  return join(dataDir, 'turn.lock')
}

/** Held by the keeper and by Redis itself, for as long as either lives. */
export function dataLock(dataDir: string): string {
  return join(dataDir, 'data.lock')
}

function runningFile(dataDir: string): string {
  return join(dataDir, 'embedded.json')
}

/** Written whole or not at all, for us alone: it may hold a password. */
export function writeRunning(dataDir: string, running: Running): void {
  const file = runningFile(dataDir)
  writeFileSync(`${file}.new`, `${JSON.stringify(running)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

export function removeRunning(dataDir: string): void {
  rmSync(runningFile(dataDir), { force: true })
}

/** As versions before this one wrote it: port and run id, and nobody who would answer for it. */
export function readEarlierVersion(dataDir: string): { readonly port: number; readonly runId: unknown } | undefined {
  try {
    const { port, runId } = JSON.parse(readFileSync(runningFile(dataDir), 'utf8')) as Record<string, unknown>
    return typeof port === 'number' ? { port, runId } : undefined
  } catch {
    return undefined
  }
}

/** undefined where there is none, or what is there is no description. */
export function readRunning(dataDir: string): Running | undefined {
  try {
    const running = JSON.parse(readFileSync(runningFile(dataDir), 'utf8')) as Partial<Running>
    return running.address && running.keeper ? (running as Running) : undefined
  } catch {
    return undefined
  }
}

/** Tells other machines that the keeper lives; silent where the folder is gone. */
export function beat(dataDir: string): void {
  const now = new Date()
  try {
    utimesSync(runningFile(dataDir), now, now)
  } catch {
    // Nobody can find what is gone.
  }
}

/** Opened anew each time: network file systems remember a file's time otherwise. */
export function beatOf(dataDir: string): number | undefined {
  try {
    const fd = openSync(runningFile(dataDir), 'r')
    try {
      return fstatSync(fd).mtimeMs
    } finally {
      closeSync(fd)
    }
  } catch {
    return undefined
  }
}
