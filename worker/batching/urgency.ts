/** Who goes first, wherever a worker has too little room: one order for the batches, the pair budget and the texts. */

/** Lower priorities first, then earlier deadlines, then who came first. */
export interface Urgency {
  readonly priority: number
  /** Milliseconds since 1970; null: none. */
  readonly deadlineAt: number | null
}

interface Place<T> {
  readonly urgency: Urgency
  readonly since: number
  readonly waiter: T
}

/** How often whoever is over the age limit goes first, so that nobody starves. */
const AGED_EVERY = 4

export class UrgencyLine<T> {
  readonly #maxAgeMs: number
  /** In the order of urgency. */
  readonly #places: Place<T>[] = []
  #sinceAged = 0

  constructor(maxAgeMs: number) {
    this.#maxAgeMs = maxAgeMs
  }

  get length(): number {
    return this.#places.length
  }

  add(waiter: T, urgency: Urgency, now: number): void {
    const behind = this.#places.findIndex((place) => compare(urgency, place.urgency) < 0)
    this.#places.splice(behind < 0 ? this.#places.length : behind, 0, { urgency, since: now, waiter })
  }

  /** Whom to serve next; it stays in the line until it is told to be `served`. */
  next(now: number): T | undefined {
    if (this.#sinceAged >= AGED_EVERY - 1) {
      const oldest = this.#places.reduce<Place<T> | undefined>(
        (best, place) => (best && best.since <= place.since ? best : place),
        undefined,
      )
      if (oldest && now - oldest.since > this.#maxAgeMs) return oldest.waiter
    }
    return this.#places[0]?.waiter
  }

  /** Takes out who was served. */
  served(waiter: T): void {
    this.#sinceAged = (this.#sinceAged + 1) % AGED_EVERY
    this.remove(waiter)
  }

  /** Takes out who waits no longer. */
  remove(waiter: T): void {
    const place = this.#places.findIndex((other) => other.waiter === waiter)
    if (place >= 0) this.#places.splice(place, 1)
  }

  /** Takes out those whose deadline has passed. */
  expired(now: number): T[] {
    const late = this.#places.filter(({ urgency: { deadlineAt } }) => deadlineAt !== null && deadlineAt <= now)
    for (const { waiter } of late) this.remove(waiter)
    return late.map(({ waiter }) => waiter)
  }

  /** Takes out all. */
  clear(): T[] {
    return this.#places.splice(0).map(({ waiter }) => waiter)
  }
}

/** Negative where the first goes before the second. */
function compare(a: Urgency, b: Urgency): number {
  if (a.priority !== b.priority) return a.priority - b.priority
  const never = Number.POSITIVE_INFINITY
  const [deadline, other] = [a.deadlineAt ?? never, b.deadlineAt ?? never]
  return deadline === other ? 0 : deadline - other
}
