/** Content hashes of models: scores may be reused only where everything that makes them is the same. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'

/** Smaller files are hashed faster than their hash is looked up. */
const REMEMBER_BYTES = 1 << 20

/**
 * Hex hash over the graph with its external weights, the tokeniser, config.json and the number format.
 *
 * @param externalFiles names beside the graph
 */
export async function fingerprintOf(
  folder: string,
  modelPath: string,
  externalFiles: readonly string[],
  dtype: string,
  cacheDir: string,
): Promise<string> {
  const paths = [
    modelPath,
    ...externalFiles.map((name) => join(dirname(modelPath), name)),
    ...['tokenizer.json', 'tokenizer_config.json', 'config.json'].map((name) => join(folder, name)),
  ]
  const hashes = await Promise.all(paths.map((path) => fileHash(path, cacheDir)))
  return createHash('sha256')
    .update(JSON.stringify([1, dtype, hashes]))
    .digest('hex')
    .slice(0, 32)
}

/** SHA-256 of a file; of a large one remembered by path, size and time of change. Null where there is no file. */
async function fileHash(path: string, cacheDir: string): Promise<string | null> {
  const info = await stat(path).catch(() => undefined)
  if (!info) return null
  if (info.size < REMEMBER_BYTES) return await hashOf(path)
  const key = createHash('sha256')
    .update(JSON.stringify([path, info.size, info.mtimeMs, info.ino]))
    .digest('hex')
  const remembered = join(cacheDir, 'hashes', key.slice(0, 32))
  const known = await readFile(remembered, 'utf8').catch(() => '')
  if (/^[0-9a-f]{64}$/.test(known)) return known
  const hash = await hashOf(path)
  await writeWhole(remembered, hash)
  return hash
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
