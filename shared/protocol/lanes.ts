/**
 * The two lanes of a pool, each a BullMQ queue of its own: what somebody waits for, and bulk work. Every worker serves
 * both, with slots of their own, so that bulk work never holds the slot or the memory that a waiting caller needs.
 */

export const LANES = ['interactive', 'bulk'] as const
export type Lane = (typeof LANES)[number]

/** From this priority on a request is bulk work; runs over whole files use exactly this. */
export const BULK_PRIORITY = 500

/** The lane of a request, from its priority (0 to 999). */
export function laneOf(priority: number): Lane {
  return priority >= BULK_PRIORITY ? 'bulk' : 'interactive'
}

export const BULK_SUFFIX = '-bulk'

/** What the queue of a pool's lane is called: `rerank@rankmill-small`, `rerank-bulk@rankmill-small@fp32`. */
export function queueName(queue: string, pool: string, lane: Lane): string {
  return `${queue}${lane === 'bulk' ? BULK_SUFFIX : ''}@${pool}`
}

/** What the one queue of a lane was called in release 0.1.0, which knew no pools. */
export function oldQueueName(queue: string, lane: Lane): string {
  return lane === 'bulk' ? `${queue}${BULK_SUFFIX}` : queue
}

/** A request's priority within its lane. 0 is BullMQ's plain list, which is faster than its sorted set, and goes first. */
export function priorityInLane(priority: number): number {
  return laneOf(priority) === 'bulk' ? priority - BULK_PRIORITY : priority
}
