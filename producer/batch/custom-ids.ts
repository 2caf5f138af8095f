/** Which custom ids a run has met: eight bytes an id, in memory and in a file beside the output. */
import { hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

const FIRST_CAPACITY = 1 << 12
const MOST_FILLED = 0.6

/**
 * A set of 64-bit hashes with open addressing: at a million ids, two of them share a hash with a chance of one in 37
 * million, and a set of the strings would take ten times the memory.
 */
export class CustomIds {
  #slots = new BigUint64Array(FIRST_CAPACITY)
  #size = 0

  get size(): number {
    return this.#size
  }

  /** @returns whether it was new */
  add(id: string): boolean {
    return this.addHash(hashOf(id))
  }

  addHash(hash: bigint): boolean {
    if (this.#size >= this.#slots.length * MOST_FILLED) this.#grow()
    const at = this.#placeOf(hash)
    if (this.#slots[at] === hash) return false
    this.#slots[at] = hash
    this.#size++
    return true
  }

  #placeOf(hash: bigint): number {
    const mask = this.#slots.length - 1
    let at = Number(hash >> 32n) & mask
    while (this.#slots[at] !== 0n && this.#slots[at] !== hash) at = (at + 1) & mask
    return at
  }

  #grow(): void {
    const before = this.#slots
    this.#slots = new BigUint64Array(before.length * 2)
    for (const hash of before) if (hash !== 0n) this.#slots[this.#placeOf(hash)] = hash
  }
}

/** Never 0, which marks a free slot. */
function hashOf(id: string): bigint {
  return hash('sha1', id, 'buffer').readBigUInt64LE() | 1n
}

/** The hashes of the items that are done, in a file that only grows. */
export class CustomIdFile {
  readonly #file: FileHandle
  #bytes: number

  /**
   * @param from an earlier runner's file
   * @param count how many of its hashes hold
   */
  static async open(path: string, from: string | undefined, count: number, into: CustomIds): Promise<CustomIdFile> {
    const file = await open(path, from === path ? 'r+' : 'w')
    if (from !== undefined && count > 0) {
      let left: Buffer = Buffer.alloc(0)
      let at = 0
      for await (const chunk of createReadStream(from, { end: count * 8 - 1, highWaterMark: 1 << 20 })) {
        const bytes: Buffer = left.length === 0 ? chunk : Buffer.concat([left, chunk])
        const whole = bytes.length - (bytes.length % 8)
        for (let i = 0; i < whole; i += 8) into.addHash(bytes.readBigUInt64LE(i))
        if (from !== path) await file.write(bytes, 0, whole, at)
        at += whole
        left = bytes.subarray(whole)
      }
    }
    await file.truncate(count * 8)
    await file.datasync()
    return new CustomIdFile(file, count * 8)
  }

  private constructor(file: FileHandle, bytes: number) {
    this.#file = file
    this.#bytes = bytes
  }

  get count(): number {
    return this.#bytes / 8
  }

  /** Adds ids and makes them last. */
  async append(ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return
    const bytes = Buffer.alloc(ids.length * 8)
    ids.forEach((id, i) => void bytes.writeBigUInt64LE(hashOf(id), i * 8))
    for (let written = 0; written < bytes.length; ) {
      const left = bytes.length - written
      written += (await this.#file.write(bytes, written, left, this.#bytes + written)).bytesWritten
    }
    await this.#file.datasync()
    this.#bytes += bytes.length
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}
