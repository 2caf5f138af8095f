/**
 * What a running `rankmill up` leaves in its folder, so that clients and commands started there find its Redis by
 * themselves. It holds a URL, maybe with a password, and is for its user's eyes only.
 */
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { isKnownDead, ownIdentity, type ProcessIdentity } from './process-identity.js'

/** One file for each process, so that none takes away what another left. */
const FOLDER = join('.rankmill', 'up')

/** Where requests go. */
export interface UpNote {
  readonly redis: string
  readonly prefix: string
  readonly queue: string
  /** Whether it is the private Redis of the folder, which ends with its last user. */
  readonly isPrivate: boolean
}

interface KeptNote extends UpNote {
  readonly process: ProcessIdentity
  /** Milliseconds of the epoch. */
  readonly since: number
}

/**
 * Leaves a note in a folder, and clears away those of processes that were killed.
 *
 * @returns takes it away again
 */
export function leaveUpNote(note: UpNote, folder = '.'): () => void {
  const notes = join(folder, FOLDER)
  mkdirSync(notes, { recursive: true, mode: 0o700 })
  for (const { file, kept } of readNotes(notes)) if (!kept || isKnownDead(kept.process)) rmSync(file, { force: true })
  const file = join(notes, `${process.pid}.json`)
  const kept: KeptNote = { ...note, process: ownIdentity(), since: Date.now() }
  writeFileSync(`${file}.new`, `${JSON.stringify(kept, null, 2)}\n`, { mode: 0o600 })
  // The mode of a file that was there before would stay.
  chmodSync(`${file}.new`, 0o600)
  renameSync(`${file}.new`, file)
  return () => rmSync(file, { force: true })
}

/** The note of the `rankmill up` that was started last in a folder and still runs; undefined where none does. */
export function findUpNote(folder = '.'): UpNote | undefined {
  const living = readNotes(join(folder, FOLDER)).flatMap(({ kept }) =>
    // A folder may be shared by machines; another's 127.0.0.1 is not ours.
    kept && kept.process.host === hostname() && !isKnownDead(kept.process) ? [kept] : [],
  )
  const newest = living.sort((a, b) => b.since - a.since)[0]
  if (!newest) return undefined
  const { redis, prefix, queue, isPrivate } = newest
  return { redis, prefix, queue, isPrivate }
}

function readNotes(folder: string): { file: string; kept: KeptNote | undefined }[] {
  let names: string[]
  try {
    names = readdirSync(folder)
  } catch {
    return []
  }
  return names
    .filter((name) => name.endsWith('.json'))
    .map((name) => {
      const file = join(folder, name)
      try {
        return { file, kept: JSON.parse(readFileSync(file, 'utf8')) as KeptNote }
      } catch {
        return { file, kept: undefined }
      }
    })
}
