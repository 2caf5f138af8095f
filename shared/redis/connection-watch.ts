/**
 * Notices a connection that has gone silent. A peer that is gone without a word (a proxy that stops forwarding, a machine
 * without power) leaves a connection that looks well and never answers; TCP takes minutes to find out, and behind a proxy
 * it never does. So something is asked of every connection regularly, and one that leaves two questions unanswered is
 * closed and opened again.
 */
import type { Redis } from 'ioredis'
import type { RankmillError } from '../errors.js'
import { redisError } from './redis-errors.js'

export interface WatchOptions {
  readonly beatMs: number
  /** What is asked; default PING. Has to be safe to repeat. */
  readonly beat?: (() => Promise<unknown>) | undefined
  /** Told when the connection is given up and opened again. */
  readonly onSilent?: (() => void) | undefined
}

/** Beats in a row that are not answered before a connection is given up. */
const MISSED_BEATS = 2

/**
 * Beats over one connection until it is stopped. Connections that block (BZPOPMIN) answer only between two commands; BullMQ
 * watches those itself.
 */
export class ConnectionWatch {
  readonly #redis: Redis
  readonly #options: WatchOptions
  readonly #timer: NodeJS.Timeout
  #fault: RankmillError | undefined
  #isAsking = false
  #missed = 0
  /** Closing a silent connection takes two seconds. */
  #isClosing = false

  constructor(redis: Redis, options: WatchOptions) {
    this.#redis = redis
    this.#options = options
    this.#timer = setInterval(() => this.#tick(), options.beatMs).unref()
    redis.once('end', () => this.stop())
    redis.on('close', this.#closed)
  }

  /** Whether the connection stands and the last beat was answered, and well: for readiness. */
  get isAnswering(): boolean {
    return this.#redis.status === 'ready' && this.#missed === 0 && this.#fault === undefined
  }

  /** What the last beat was refused with. */
  get fault(): RankmillError | undefined {
    return this.#fault
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#redis.off('close', this.#closed)
  }

  readonly #closed = (): void => {
    this.#isClosing = false
  }

  #tick(): void {
    if (!this.#isAsking) return void this.#ask()
    // While it is connecting anyway, there is nothing to give up.
    if (++this.#missed < MISSED_BEATS || this.#redis.status !== 'ready' || this.#isClosing) return
    this.#isClosing = true
    this.#options.onSilent?.()
    this.#redis.disconnect(true)
  }

  async #ask(): Promise<void> {
    this.#isAsking = true
    try {
      await (this.#options.beat?.() ?? this.#redis.ping())
      this.#fault = undefined
    } catch (error) {
      this.#fault = redisError(error)
    }
    this.#isAsking = false
    this.#missed = 0
  }
}
