/** Waits out faults of Redis that pass. */
import { setTimeout as delay } from 'node:timers/promises'
import { RankmillError } from '../errors.js'
import { PASSING, redisError, redisFault } from './redis-errors.js'

export interface PassingOptions {
  /** Longest time that is waited in all, in ms; then the last error is thrown. */
  readonly limitMs: number
  /** The same where Redis refuses (a password that was changed, a right that was taken), until somebody corrects it; default 0. */
  readonly refusalMs?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Told before each wait. */
  readonly onWait?: ((error: RankmillError, waitMs: number) => void) | undefined
  /** Numbers from 0 up to 1. */
  readonly random?: (() => number) | undefined
}

const FIRST_MS = 50
const LONGEST_MS = 2000

/** Whether an error is one of Redis that passes by itself. */
export function passes(error: unknown): boolean {
  return error instanceof RankmillError ? PASSING.has(error.code) : (redisFault(error)?.passes ?? false)
}

/** Whether Redis refuses what it is asked, until somebody corrects that. */
function refuses(error: unknown): boolean {
  const code = redisFault(error)?.code
  return code === 'redis_denied' || code === 'redis_misconfigured'
}

/** How long to wait after so many failures in a row: doubles up to 2 s, between half and all of it. */
export function backoffMs(failures: number, random: () => number = Math.random): number {
  const most = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures - 1, 16))
  return most / 2 + (most / 2) * random()
}

/**
 * Calls again while Redis fails in a way that passes, with back-off and jitter. The call has to bear being made twice: one
 * that was not answered may have been carried out.
 *
 * @throws RankmillError of Redis that does not pass, or did not within `limitMs`; the signal's reason; any other error of the
 *   call as it is
 */
export async function untilPasses<T>(call: () => Promise<T>, options: PassingOptions): Promise<T> {
  const { limitMs, refusalMs = 0, signal, onWait, random = Math.random } = options
  const startedAt = performance.now()
  for (let failures = 1; ; failures++) {
    signal?.throwIfAborted()
    try {
      return await call()
    } catch (cause) {
      signal?.throwIfAborted()
      const isRefused = refuses(cause)
      if (!isRefused && !passes(cause)) throw redisFault(cause) ? redisError(cause) : cause
      const error = redisError(cause)
      const waitMs = backoffMs(failures, random)
      if (performance.now() - startedAt + waitMs > (isRefused ? refusalMs : limitMs)) throw error
      onWait?.(error, waitMs)
      await delay(waitMs, undefined, { signal }).catch(() => undefined)
    }
  }
}
