/** What this server has under way to one receiver of webhooks, and when the turn of what finds no room may come. */

/** Of what is put off. */
const [SHORTEST_TURN_MS, LONGEST_TURN_MS] = [50, 60_000]

export class Receiver {
  readonly #started: number[] = []
  #lastMs = 0
  #putOff = 0

  /** Deliveries. */
  get underWay(): number {
    return this.#started.length
  }

  begin(now: number): void {
    this.#started.push(now)
  }

  end(startedAt: number, now: number): void {
    this.#started.splice(this.#started.indexOf(startedAt), 1)
    this.#lastMs = now - startedAt
    this.#putOff = Math.max(0, this.#putOff - 1)
  }

  /** How long one more has to wait: as the receiver was of late, or is just now where that is slower. Milliseconds. */
  putOff(now: number): number {
    this.#putOff++
    const eachMs = Math.max(this.#lastMs, now - (this.#started[0] ?? now))
    const turns = Math.ceil(this.#putOff / Math.max(1, this.underWay))
    return Math.min(LONGEST_TURN_MS, Math.max(SHORTEST_TURN_MS, turns * eachMs))
  }
}
