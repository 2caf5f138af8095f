/** Files in a folder; servers on one machine, or on a shared file system, share it. */
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Storage, storageError } from './storage.js'

export class FolderStorage implements Storage {
  readonly #folder: string

  /** @throws RankmillError `storage_failed` */
  static async open(folder: string): Promise<FolderStorage> {
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 })
      return new FolderStorage(folder)
    } catch (error) {
      throw storageError(folder, error)
    }
  }

  private constructor(folder: string) {
    this.#folder = folder
  }

  async put(id: string, content: AsyncIterable<Buffer>): Promise<number> {
    const partial = join(this.#folder, `${id}.${randomBytes(4).toString('hex')}.partial`)
    let bytes = 0
    try {
      const file = await open(partial, 'wx', 0o600)
      try {
        for await (const chunk of content) {
          await file.writeFile(chunk)
          bytes += chunk.length
        }
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(partial, join(this.#folder, id))
      const folder = await open(this.#folder, 'r')
      await folder.sync().finally(() => folder.close())
      return bytes
    } catch (error) {
      await rm(partial, { force: true })
      throw storageError(id, error)
    }
  }

  async get(id: string): Promise<AsyncIterable<Buffer>> {
    try {
      // Opened now, so that a missing one is an error before the first byte.
      const file = await open(join(this.#folder, id), 'r')
      return createReadStream('', { fd: file, highWaterMark: 1 << 18 })
    } catch (error) {
      throw storageError(id, error)
    }
  }

  async remove(id: string): Promise<void> {
    await rm(join(this.#folder, id), { force: true }).catch((error) => {
      throw storageError(id, error)
    })
  }

  async local(id: string): Promise<string> {
    const path = join(this.#folder, id)
    await stat(path).catch((error) => {
      throw storageError(id, error)
    })
    return path
  }

  close(): void {
    // Nothing is held.
  }
}
