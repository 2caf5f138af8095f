/**
 * Files whose bytes a fingerprint stands for. They are opened again long after it was made (stages, restarted threads): what
 * is read then has to be what was hashed, or scores of one model would be kept under the name of another.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { RankmillError } from '../../shared/errors.js'
import { fault } from './json-file.js'

/** Frozen plain data: it is sent to threads. */
export interface BoundFile {
  readonly path: string
  readonly sha256: string
  /** By which most files are known to be unchanged without being read. */
  readonly identity: string
}

/** Whether an error says that a file is another one now, which no second try mends. */
export function isReplaced(error: RankmillError | undefined): boolean {
  return error?.code === 'invalid_model' && error.details.param === 'model'
}

/** Smaller files are hashed faster than their hash is looked up. */
const REMEMBER_BYTES = 1 << 20
/** A file that is written to while it is hashed is hashed again so often. */
const TRIES = 5

async function identityOf(path: string): Promise<{ identity: string; size: number } | undefined> {
  const info = await stat(path, { bigint: true }).catch(() => undefined)
  if (!info) return undefined
  // The time of change cannot be set, as that of the last writing can: copies keep the latter.
  const identity = [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(' ')
  return { identity, size: Number(info.size) }
}

/**
 * A file's SHA-256; of a large one remembered by path, size and times.
 *
 * @returns undefined where there is no file
 * @throws RankmillError `invalid_model` for a file that does not stop changing
 */
export async function bindFile(path: string, cacheDir: string): Promise<BoundFile | undefined> {
  for (let tries = 0; tries < TRIES; tries++) {
    const before = await identityOf(path)
    if (!before) return undefined
    const sha256 =
      before.size < REMEMBER_BYTES ? await hashOf(path) : await rememberedHash(path, before.identity, cacheDir)
    if ((await identityOf(path))?.identity === before.identity)
      return Object.freeze({ path, sha256, identity: before.identity })
  }
  throw fault(path, 'the file is being written to')
}

async function rememberedHash(path: string, identity: string, cacheDir: string): Promise<string> {
  const key = createHash('sha256')
    .update(JSON.stringify([path, identity]))
    .digest('hex')
  const remembered = join(cacheDir, 'hashes', key.slice(0, 32))
  const known = await readFile(remembered, 'utf8').catch(() => '')
  if (/^[0-9a-f]{64}$/.test(known)) return known
  const hash = await hashOf(path)
  await writeWhole(remembered, hash)
  return hash
}

/**
 * Reads files by `open`, and makes sure that what it read is what was bound.
 *
 * @throws RankmillError `invalid_model` naming a file that was replaced, or what `open` throws
 */
export async function openBound<T>(files: readonly BoundFile[], open: () => Promise<T>): Promise<T> {
  await checkBound(files)
  const opened = await open()
  await checkBound(files)
  return opened
}

async function checkBound(files: readonly BoundFile[]): Promise<void> {
  for (const { path, sha256, identity } of files) {
    const now = await identityOf(path)
    // One that is gone may come back, and says by itself that it is not there.
    if (!now || now.identity === identity) continue
    if ((await hashOf(path).catch(() => '')) === sha256) continue
    const what = 'the file has been replaced since the model was opened: restart the worker to serve what is there now'
    throw new RankmillError('invalid_model', `${path}: ${what}`, { param: 'model' })
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
  return hash.digest('hex')
}

/** Writes a cache file so that no reader sees half of it. A cache that cannot be written costs time, not answers. */
export async function writeWhole(path: string, content: string): Promise<void> {
  const temporary = `${path}.${process.pid}.${performance.now()}`
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(temporary, content)
    await rename(temporary, path)
  } catch {
    // Read-only file systems are common in containers.
  }
}
