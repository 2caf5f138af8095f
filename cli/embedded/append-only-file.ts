/**
 * What a Redis that is not running has written of its changes, where it does not load it any more: Redis 7.0 may have cut it in
 * the wrong place when its disk was full, and have written on behind. It is cut before the damage, as redis-check-aof does;
 * what Redis knew at that moment it knows again.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, truncateSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Launch } from './redis-launch.js'

/** How Redis names a file that it does not load. */
const REFUSED = /append only file ([^\s:]+):.*check-aof --fix/

/**
 * @param said what Redis logged of the start that failed
 * @param keptIn a folder for copies of what is cut
 * @returns what was done, or why nothing could be; undefined where Redis did not complain of it
 */
export function mendAppendOnlyFile(
  dataDir: string,
  launch: Launch,
  said: string,
  keptIn?: string,
): { readonly isMended: boolean; readonly what: string } | undefined {
  const name = REFUSED.exec(said)?.[1]
  if (name === undefined) return undefined
  const failed = (what: string) => ({ isMended: false, what })
  const files = increments(dataDir)
  const place = files.findIndex((path) => basename(path) === basename(name))
  const [damaged, ...later] = place < 0 ? [] : files.slice(place)
  if (damaged === undefined || launch.container !== undefined)
    return failed(`${name} is to be mended by redis-check-aof`)
  if (keptIn !== undefined) {
    mkdirSync(keptIn, { recursive: true })
    for (const path of [damaged, ...later]) copyFileSync(path, join(keptIn, basename(path)))
  }
  const before = statSync(damaged).size
  // Redis is all of its programs, by the name that it is called by.
  const program = basename(launch.command).replace('-server', '-check-aof')
  const { status, stdout, error } = spawnSync(launch.command, ['--fix', damaged], {
    argv0: join(dirname(launch.command), program),
    input: 'y\n',
    encoding: 'utf8',
    env: { ...process.env, ...launch.env },
  })
  if (status !== 0) return failed(`${program} could not mend ${name}: ${error?.message ?? stdout.trim()}`)
  // What follows in later files follows on what is gone.
  for (const path of later) truncateSync(path, 0)
  const cut = before - statSync(damaged).size
  return { isMended: true, what: `${program} cut ${cut} of ${before} bytes of ${name}` }
}

/** Paths of what was written since the base, oldest first, as the manifest has them. */
export function increments(dataDir: string): string[] {
  const folder = join(dataDir, 'appendonlydir')
  const manifest = join(folder, 'appendonly.aof.manifest')
  if (!existsSync(manifest)) return []
  const lines = readFileSync(manifest, 'utf8').matchAll(/^file (\S+) seq \d+ type i/gm)
  return Array.from(lines, ([, name = '']) => join(folder, name))
}
