/**
 * A hash of all that a file holds, which can be taken up again: of the hashes of its blocks one after another, so that to
 * go on takes no more than the last, unfinished block.
 */
import { createHash } from 'node:crypto'

export const BLOCK_BYTES = 1 << 20

export interface DigestState {
  readonly bytes: number
  /** Of all whole blocks. */
  readonly chain: string
  /** Of everything. */
  readonly digest: string
}

export class OutputDigest {
  #chain: string
  #block = createHash('sha256')
  #inBlock = 0
  #bytes: number

  constructor() {
    this.#chain = ''
    this.#bytes = 0
  }

  /** @param tail what follows the last whole block */
  static resume({ bytes, chain }: DigestState, tail: Buffer): OutputDigest {
    const digest = new OutputDigest()
    digest.#chain = chain
    digest.#bytes = bytes - (bytes % BLOCK_BYTES)
    digest.update(tail)
    return digest
  }

  get bytes(): number {
    return this.#bytes
  }

  update(bytes: Buffer): void {
    for (let from = 0; from < bytes.length; ) {
      const part = bytes.subarray(from, from + BLOCK_BYTES - this.#inBlock)
      this.#block.update(part)
      this.#inBlock += part.length
      this.#bytes += part.length
      from += part.length
      if (this.#inBlock < BLOCK_BYTES) continue
      this.#chain = createHash('sha256').update(this.#chain).update(this.#block.digest()).digest('hex')
      this.#block = createHash('sha256')
      this.#inBlock = 0
    }
  }

  state(): DigestState {
    const digest = createHash('sha256').update(this.#chain).update(this.#block.copy().digest()).digest('hex')
    return { bytes: this.#bytes, chain: this.#chain, digest }
  }
}
