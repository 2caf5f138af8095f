/** A file system of a few megabytes, in memory, that can be filled up: what a full disk is to those who write there. */
import { execFile } from 'node:child_process'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const BLOCK = Buffer.alloc(256 * 1024)
const FILLER = 'filler'

export class SmallDisk {
  readonly folder: string
  #isMounted: boolean

  /** An ordinary folder where none may be mounted here, which takes root on Linux: then it cannot be filled. */
  static async mount(folder: string, megabytes: number): Promise<SmallDisk> {
    await mkdir(folder, { recursive: true })
    const mounted = run('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', folder])
    return new SmallDisk(
      folder,
      await mounted.then(
        () => true,
        () => false,
      ),
    )
  }

  private constructor(folder: string, isMounted: boolean) {
    this.folder = folder
    this.#isMounted = isMounted
  }

  get canBeFilled(): boolean {
    return this.#isMounted
  }

  /** Takes all the room that is left, to the last byte. */
  fill(): void {
    const file = openSync(join(this.folder, FILLER), 'w')
    try {
      for (let bytes = BLOCK.length; bytes >= 1; ) {
        try {
          writeSync(file, BLOCK, 0, bytes)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
          bytes = Math.floor(bytes / 2)
        }
      }
    } finally {
      closeSync(file)
    }
  }

  free(): void {
    rmSync(join(this.folder, FILLER), { force: true })
  }

  async unmount(): Promise<void> {
    if (!this.#isMounted) return
    await run('umount', ['--lazy', this.folder])
    this.#isMounted = false
  }
}
