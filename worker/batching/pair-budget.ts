/** Bounds the encoded pairs that a worker holds: jobs wait here, first come, first served, before they are encoded. */
export class PairBudget {
  readonly #limit: number
  #held = 0
  readonly #queue: { pairs: number; go: () => void }[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  /**
   * Waits for room. A job of more pairs than the whole budget takes all of it, or it could never run.
   *
   * @returns gives the room back
   */
  async take(pairs: number, signal: AbortSignal): Promise<() => void> {
    const share = Math.min(pairs, this.#limit)
    if (this.#queue.length > 0 || this.#held + share > this.#limit) {
      await new Promise<void>((resolve, reject) => {
        const abort = () => {
          this.#queue.splice(this.#queue.indexOf(waiter), 1)
          reject(signal.reason)
          this.#admit()
        }
        const waiter = {
          pairs: share,
          go: () => {
            signal.removeEventListener('abort', abort)
            resolve()
          },
        }
        if (signal.aborted) return reject(signal.reason)
        signal.addEventListener('abort', abort, { once: true })
        this.#queue.push(waiter)
      })
    } else {
      this.#held += share
    }
    let given = false
    return () => {
      if (given) return
      given = true
      this.#held -= share
      this.#admit()
    }
  }

  #admit(): void {
    for (let next = this.#queue[0]; next && this.#held + next.pairs <= this.#limit; next = this.#queue[0]) {
      this.#queue.shift()
      this.#held += next.pairs
      next.go()
    }
  }
}
