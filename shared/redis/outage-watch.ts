/** Says once that Redis is away, once a minute that it still is, and once that it is back, whatever else is tried meanwhile. */
import type { Redis } from 'ioredis'

/** Shorter than that is no outage, and may be an ordinary end. */
const GRACE_MS = 500
const AGAIN_MS = 60_000
/** Kept apart; some name what differs each time. */
const MOST_COMPLAINTS = 100

export class OutageWatch {
  readonly #redis: Redis
  readonly #say: (line: string) => void
  /** When each was reported last. */
  readonly #complaints = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined
  #since = 0
  #said = false

  /** Watches until the connection is ended for good. */
  constructor(redis: Redis, say: (line: string) => void) {
    this.#redis = redis
    this.#say = say
    redis.on('close', () => this.#gone())
    redis.on('ready', () => this.#back())
    redis.on('end', () => clearTimeout(this.#timer))
  }

  /**
   * Reports what a connection to the same Redis complains of, unless it is away, which is said once for all. The same complaint,
   * as of a full disk by everything that is tried meanwhile, once a minute.
   */
  report(complaint: string, report: () => void): void {
    const timer = setTimeout(() => {
      if (this.#redis.status !== 'ready' || this.#isKnown(complaint)) return
      report()
    }, GRACE_MS)
    timer.unref()
  }

  #isKnown(complaint: string): boolean {
    const now = Date.now()
    if (now < (this.#complaints.get(complaint) ?? 0) + AGAIN_MS) return true
    if (this.#complaints.size >= MOST_COMPLAINTS) this.#complaints.clear()
    this.#complaints.set(complaint, now)
    return false
  }

  #gone(): void {
    if (this.#since !== 0) return
    this.#since = Date.now()
    this.#later(GRACE_MS)
  }

  #later(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#say(this.#said ? `Redis is still away, for ${this.#seconds()} s now` : 'Redis is away: waiting for it')
      this.#said = true
      this.#later(AGAIN_MS)
    }, ms).unref()
  }

  #back(): void {
    clearTimeout(this.#timer)
    if (this.#said) this.#say(`Redis is back after ${this.#seconds()} s`)
    this.#since = 0
    this.#said = false
  }

  #seconds(): number {
    return Math.round((Date.now() - this.#since) / 1000)
  }
}
