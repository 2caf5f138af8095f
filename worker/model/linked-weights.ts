/**
 * Graphs whose weights lie behind symbolic links, as a hub's cache keeps them: ONNX Runtime refuses weights that are not in
 * the graph's own folder. They are given a folder of hard links for as long as it reads them.
 */
import { copyFile, link, mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'

/**
 * @param path the graph's
 * @param beside paths of its weights, in its folder
 * @param read is given a path to read the graph from
 */
export async function throughLinks<T>(
  path: string,
  beside: readonly string[],
  read: (path: string) => Promise<T>,
): Promise<T> {
  const folder = await realpath(dirname(path))
  const places = await Promise.all(beside.map((file) => realpath(file).catch(() => file)))
  if (places.every((place) => dirname(place) === folder)) return await read(path)
  const staging = await stagingFolder(places.map((place) => dirname(place)))
  try {
    for (const file of [path, ...beside]) await place(await realpath(file), join(staging, basename(file)))
    return await read(join(staging, basename(path)))
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** Where the files are, because hard links do not reach into another file system. */
async function stagingFolder(parents: readonly string[]): Promise<string> {
  for (const parent of parents) {
    const made = await mkdtemp(join(parent, '.rankmill-links-')).catch(() => undefined)
    if (made !== undefined) return made
  }
  return await mkdtemp(join(tmpdir(), 'rankmill-links-'))
}

async function place(from: string, to: string): Promise<void> {
  await link(from, to).catch(() => copyFile(from, to))
}
