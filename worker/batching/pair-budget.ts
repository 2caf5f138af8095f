/** Bounds the encoded pairs that a worker holds: blocks of jobs wait here, the most urgent first, before they are encoded. */
import { RankmillError } from '../../shared/errors.js'
import { type Urgency, UrgencyLine } from './urgency.js'

/** Room for pairs. */
export interface Lease {
  /** How long it was waited for. */
  readonly waitedMs: number
  /** Says how many pairs it came to: what was not foreseen counts against who comes next. */
  resize(pairs: number): void
  /** Gives the room back. */
  release(): void
}

export interface BudgetOptions {
  readonly pairs: number
  /** Who has waited this long gets in before who is more urgent, now and then. */
  readonly maxAgeMs: number
  readonly now: () => number
}

interface Waiter {
  readonly pairs: number
  go(): void
  fail(error: RankmillError): void
}

export class PairBudget {
  /** Pairs at once. */
  readonly limit: number
  readonly #now: () => number
  readonly #line: UrgencyLine<Waiter>
  #held = 0

  constructor({ pairs, maxAgeMs, now }: BudgetOptions) {
    this.limit = pairs
    this.#now = now
    this.#line = new UrgencyLine(maxAgeMs)
  }

  /**
   * Waits for room. Who wants more than the whole budget takes all of it, or could never run.
   *
   * @throws RankmillError `deadline_exceeded`; or the signal's reason
   */
  async take(pairs: number, urgency: Urgency, signal: AbortSignal): Promise<Lease> {
    signal.throwIfAborted()
    const startedAt = this.#now()
    let share = Math.min(pairs, this.limit)
    if (this.#line.length > 0 || this.#held + share > this.limit) await this.#wait(share, urgency, signal)
    else this.#held += share
    let isHeld = true
    const resize = (to: number) => {
      if (!isHeld) return
      this.#held += to - share
      share = to
      this.#admit()
    }
    const release = () => {
      resize(0)
      isHeld = false
    }
    return { waitedMs: this.#now() - startedAt, resize, release }
  }

  #wait(share: number, urgency: Urgency, signal: AbortSignal): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      const abort = () => {
        this.#line.remove(waiter)
        reject(signal.reason)
        this.#admit()
      }
      const ended = () => signal.removeEventListener('abort', abort)
      const waiter: Waiter = {
        pairs: share,
        go: () => {
          ended()
          resolve()
        },
        fail: (error) => {
          ended()
          reject(error)
        },
      }
      signal.addEventListener('abort', abort, { once: true })
      this.#line.add(waiter, urgency, this.#now())
    })
  }

  #admit(): void {
    const late = 'the deadline passed while the request waited for room in the worker'
    for (const { fail } of this.#line.expired(this.#now())) fail(new RankmillError('deadline_exceeded', late))
    for (;;) {
      const next = this.#line.next(this.#now())
      if (!next || this.#held + next.pairs > this.limit) return
      this.#line.served(next)
      this.#held += next.pairs
      next.go()
    }
  }
}
