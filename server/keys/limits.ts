/**
 * What a caller may have under way. The more it has, the later its next requests are served: a tenant's flood waits behind
 * the first request of any other, without a queue for each. And what a lane may hold is never all a flood's.
 */
import { RankmillError } from '../../shared/errors.js'
import { BULK_PRIORITY } from '../../shared/protocol/lanes.js'
import type { Limits, ServerScripts } from '../../shared/redis/server-scripts.js'
import type { Caller } from './caller.js'

/** So many pairs under way cost nothing: where a pair takes a tenth of a second, another's first request waits for no more. */
const FREE_PAIRS = 16
/** From then on so many steps of priority for each doubling: a flood of any size is behind, and never out of its lane. */
const STEPS_A_DOUBLING = 4
/** Share of a lane that keys may fill, and how many pairs under way are so few that the rest is for them. */
const [SHARED_ROOM, FEW_PAIRS] = [0.9, 256]
const OPEN: Limits = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0 }
const BUSY_MS = 1000

export interface Admission {
  /** Of the request in the queue, 0 to 999. */
  readonly priority: number
  /** Up to which share of its bounds it may fill its lane. */
  readonly room: number
  release(): Promise<void>
}

export class CallerLimits {
  readonly #scripts: ServerScripts

  constructor(scripts: ServerScripts) {
    this.#scripts = scripts
  }

  /**
   * @param name of the request, unique among the caller's
   * @param priority what the request asks for, 0 to 999
   * @param ttlMs a request that is never released counts so long
   * @throws RankmillError `rate_limited`
   */
  async admit(caller: Caller, name: string, pairs: number, priority: number, ttlMs: number): Promise<Admission> {
    if (!caller.key) return { priority, room: 1, release: async () => undefined }
    const limits = { ...OPEN, ...caller.key }
    const { against, retryAfterMs, queuedPairs } = await this.#scripts.admit(caller.owner, limits, name, pairs, ttlMs)
    if (against !== '') throw refusal(against, limits, queuedPairs, retryAfterMs)
    return {
      priority: fairPriority(priority + caller.key.priority, queuedPairs),
      room: queuedPairs < FEW_PAIRS ? 1 : SHARED_ROOM,
      // What cannot be released now expires by itself.
      release: () => this.release(caller.owner, name),
    }
  }

  /** Work that has ended counts no more. */
  async release(owner: string, name: string): Promise<void> {
    await this.#scripts.release(owner, name).catch(() => undefined)
  }
}

/** A priority, later by what its owner has under way, in the lane that it asks for. */
function fairPriority(wanted: number, queuedPairs: number): number {
  const last = wanted >= BULK_PRIORITY ? 999 : BULK_PRIORITY - 1
  const steps = queuedPairs < FREE_PAIRS ? 0 : 1 + Math.floor(STEPS_A_DOUBLING * Math.log2(queuedPairs / FREE_PAIRS))
  return Math.min(last, wanted + steps)
}

function refusal(against: string, limits: Limits, queuedPairs: number, retryAfterMs: number): RankmillError {
  const messages: Record<string, string> = {
    requests: `the API key may send ${limits.requestsPerMinute} requests a minute`,
    pairs: `the API key may send ${limits.pairsPerMinute} pairs a minute`,
    queued_pairs: `the API key may have ${limits.queuedPairs} pairs under way, and has ${queuedPairs}`,
  }
  return new RankmillError('rate_limited', messages[against] ?? against, {
    retryAfterMs: Math.max(BUSY_MS, retryAfterMs),
  })
}
