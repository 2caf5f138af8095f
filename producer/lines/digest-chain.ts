/** A hash of all that was read up to any place of a content, kept while it is read. */
import { createHash, type Hash } from 'node:crypto'

/** Of nothing. */
export const NO_CONTENT = ''
const HEX_DIGITS = 32

/**
 * Links of a content, one after another: a link's digest is that of the digest before it and of its own bytes. So the last
 * one is all that has to be kept to go on, and it changes with any byte before it.
 */
export class DigestChain {
  #state: string
  #hash: Hash | undefined

  /** @param state of the links before, as `link` gave it */
  constructor(state = NO_CONTENT) {
    this.#state = state
  }

  update(bytes: Uint8Array | string): void {
    this.#hash ??= createHash('sha256').update(this.#state)
    this.#hash.update(bytes)
  }

  /** Ends a link. @returns the digest of all links, 128 bits in hexadecimal digits */
  link(): string {
    this.#hash ??= createHash('sha256').update(this.#state)
    this.#state = this.#hash.digest('hex').slice(0, HEX_DIGITS)
    this.#hash = undefined
    return this.#state
  }
}
