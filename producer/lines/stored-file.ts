/** Files that can be read again, from any place on. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import type { StoredBytes } from './stored-bytes.js'

const SAMPLES = 32
const SAMPLE_BYTES = 65_536
const READ_BYTES = 1 << 18

/**
 * A path's file, or an object under `s3://`; undefined where it can be read only once (a FIFO, a terminal, `<(…)`).
 *
 * @throws Error of the system, or of the store
 */
export async function storedFile(path: string): Promise<StoredBytes | undefined> {
  if (path.startsWith('s3://')) return (await import('./s3-object.js')).s3File(path)
  const found = await stat(path)
  if (found.isDirectory()) throw new Error('is a folder')
  if (!found.isFile()) return undefined
  await (await open(path, 'r')).close()
  return {
    name: path,
    size: found.size,
    fingerprint: () => fingerprintOfFile(path),
    read: (start, end = Number.POSITIVE_INFINITY) => bytesOf(path, start, end),
  }
}

async function* bytesOf(path: string, start: number, end: number): AsyncGenerator<Buffer> {
  if (end <= start) return
  const stream = createReadStream(path, { start, end: end - 1, highWaterMark: READ_BYTES })
  try {
    yield* stream as AsyncIterable<Buffer>
  } finally {
    stream.destroy()
  }
}

/** Of a file's size and of samples from all over it: a 20 GB file is not read twice for it. @throws Error of the system */
async function fingerprintOfFile(path: string): Promise<string> {
  const file = await open(path, 'r')
  try {
    return await sampled(file)
  } finally {
    await file.close()
  }
}

async function sampled(file: FileHandle): Promise<string> {
  const { size } = await file.stat()
  const hash = createHash('sha256').update(`${size}`)
  const buffer = Buffer.alloc(SAMPLE_BYTES)
  for (let i = 0; i < SAMPLES; i++) {
    const at = Math.floor((Math.max(0, size - SAMPLE_BYTES) * i) / (SAMPLES - 1))
    const { bytesRead } = await file.read(buffer, 0, SAMPLE_BYTES, at)
    hash.update(buffer.subarray(0, bytesRead))
  }
  return hash.digest('hex').slice(0, 32)
}
