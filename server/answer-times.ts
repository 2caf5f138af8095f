/** How fast this server answered of late: for the page, which knows no history, and for who has to come back. */
import { quantile } from 'simple-statistics'

/** Of how many answers at most. */
const KEPT = 512
const RECENT_MS = 60_000

export interface Pace {
  /** Requests that were waited for and answered, a second. */
  readonly perSecond: number
  /** Milliseconds; null where nothing was answered of late. */
  readonly p50: number | null
  readonly p95: number | null
}

export class AnswerTimes {
  readonly #now: () => number
  #answers: { readonly at: number; readonly ms: number }[] = []

  constructor(now: () => number) {
    this.#now = now
  }

  add(ms: number): void {
    this.#answers.push({ at: this.#now(), ms })
    if (this.#answers.length > 2 * KEPT) this.#answers = this.#answers.slice(-KEPT)
  }

  /** Milliseconds from one answer to the next among the last few; undefined before there are two. */
  between(count: number): number | undefined {
    const last = this.#answers.slice(-count)
    return last.length > 1 ? (this.#now() - (last[0]?.at ?? 0)) / last.length : undefined
  }

  pace(): Pace {
    const now = this.#now()
    const recent = this.#answers.slice(-KEPT).filter(({ at }) => now - at <= RECENT_MS)
    const [first] = recent
    if (!first) return { perSecond: 0, p50: null, p95: null }
    // Where more came in a minute than are kept, those that are kept tell the pace.
    const seconds = recent.length < KEPT ? RECENT_MS / 1000 : Math.max(0.001, (now - first.at) / 1000)
    const times = recent.map(({ ms }) => ms)
    return { perSecond: recent.length / seconds, p50: quantile(times, 0.5), p95: quantile(times, 0.95) }
  }
}
