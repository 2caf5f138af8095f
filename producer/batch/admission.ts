/** How much may be under way at once: a number of requests that follows the workers, and a number of bytes. */
export class Admission {
  #limit: number
  readonly #maxBytes: number
  #requests = 0
  #bytes = 0
  #closed = false
  #wake: () => void = () => undefined

  constructor(limit: number, maxBytes: number) {
    this.#limit = limit
    this.#maxBytes = maxBytes
  }

  get requests(): number {
    return this.#requests
  }

  get limit(): number {
    return this.#limit
  }

  set limit(limit: number) {
    this.#limit = limit
    this.#wake()
  }

  /** Waits for room, which an otherwise idle run always has. @returns false where it was closed instead */
  async enter(bytes: number): Promise<boolean> {
    while (!this.#closed && !this.#hasRoom(bytes)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#closed) return false
    this.#requests++
    this.#bytes += bytes
    return true
  }

  leave(bytes: number): void {
    this.#requests--
    this.#bytes -= bytes
    this.#wake()
  }

  /** Lets nobody in any more. */
  close(): void {
    this.#closed = true
    this.#wake()
  }

  #hasRoom(bytes: number): boolean {
    return this.#requests === 0 || (this.#requests < this.#limit && this.#bytes + bytes <= this.#maxBytes)
  }
}
