/** The append-only file of a Redis that does not run: cut off as its machine's crash does, or mended as its operator does. */
import { existsSync, readFileSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { increments, mendAppendOnlyFile } from '../../cli/embedded/append-only-file.js'
import type { Launch } from '../../cli/embedded/redis-launch.js'

/** What a crash of its machine takes of the last writes. */
const ROLLED_BACK_BYTES = 65_536

export class AppendOnlyFile {
  readonly #folder: string
  readonly #launch: Launch
  /** Of the log, what was read. */
  #logBytes = 0

  constructor(folder: string, launch: Launch) {
    this.#folder = folder
    this.#launch = launch
  }

  /** Takes the last writes out of it, in the middle of one. */
  rollBack(): void {
    const newest = increments(this.#folder).at(-1)
    if (newest === undefined) return
    const { size } = statSync(newest)
    truncateSync(newest, Math.max(0, size - Math.min(ROLLED_BACK_BYTES, Math.floor(size / 2))))
  }

  /** Where Redis refused to load it at its last start. @returns what was done, or failed; undefined where nothing was to do */
  mend(): string | undefined {
    const log = join(this.#folder, 'redis.log')
    if (!existsSync(log)) return undefined
    const text = readFileSync(log)
    const said = text.subarray(Math.min(this.#logBytes, text.length)).toString()
    this.#logBytes = text.length
    return mendAppendOnlyFile(this.#folder, this.#launch, said)?.what
  }
}
