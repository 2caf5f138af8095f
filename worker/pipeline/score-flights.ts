/**
 * Pairs that some job of this worker is scoring now: a job that needs the same pair waits for it instead of scoring it
 * again. A job never waits for one that is less urgent than itself, and when the job that scores a pair ends without
 * its score, those that wait are told so and see to it themselves: they neither fail nor stop with it.
 */
import type { Urgency } from '../batching/urgency.js'
import type { KnownScore } from './score-cache.js'

interface Flight {
  readonly urgency: Urgency
  /** Made for the first who waits: most flights have none. */
  landed(): Promise<KnownScore | undefined>
  /** Undefined: it ends without a score. */
  land(score: KnownScore | undefined): void
}

/** What a job has to do of the pairs that it asked for, by their places in the job. */
export interface Claim {
  readonly mine: readonly number[]
  /** Scores that others are working on; undefined where they ended without. They never reject. */
  readonly others: ReadonlyMap<number, Promise<KnownScore | undefined>>
  /** Tells those who wait the score of a pair of mine. */
  land(place: number, score: KnownScore): void
  /** Ends the claim: pairs of mine that have no score yet end without. */
  release(): void
}

export class ScoreFlights {
  readonly #flights = new Map<string, Flight>()

  /** Pairs that are being scored. */
  get size(): number {
    return this.#flights.size
  }

  /**
   * Takes what nobody is scoring. The claim must be released, whatever happens.
   *
   * @param pairs the pairs' names by their places
   */
  claim(pairs: ReadonlyMap<number, string>, urgency: Urgency): Claim {
    const mine = new Map<number, Flight>()
    const others = new Map<number, Promise<KnownScore | undefined>>()
    for (const [place, pair] of pairs) {
      const flight = this.#flights.get(pair)
      if (flight && isAsUrgent(flight.urgency, urgency)) {
        others.set(place, flight.landed())
        continue
      }
      const own = newFlight(urgency)
      this.#flights.set(pair, own)
      mine.set(place, own)
    }
    const end = (place: number, score: KnownScore | undefined) => {
      const flight = mine.get(place)
      const pair = pairs.get(place)
      // A more urgent job may have put its own flight in this one's place.
      if (pair !== undefined && this.#flights.get(pair) === flight) this.#flights.delete(pair)
      flight?.land(score)
    }
    return {
      mine: [...mine.keys()],
      others,
      land: end,
      release: () => {
        for (const place of mine.keys()) end(place, undefined)
      },
    }
  }
}

function isAsUrgent(a: Urgency, b: Urgency): boolean {
  const never = Number.POSITIVE_INFINITY
  return a.priority <= b.priority && (a.deadlineAt ?? never) <= (b.deadlineAt ?? never)
}

function newFlight(urgency: Urgency): Flight {
  let landing: { readonly promise: Promise<KnownScore | undefined>; readonly land: Flight['land'] } | undefined
  return {
    urgency,
    landed: () => {
      landing ??= newLanding()
      return landing.promise
    },
    land: (score) => landing?.land(score),
  }
}

function newLanding() {
  let land: Flight['land'] = () => undefined
  const promise = new Promise<KnownScore | undefined>((resolve) => {
    land = resolve
  })
  return { promise, land }
}
