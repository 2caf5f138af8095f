/** The groups of one priority and stage, with their entries by length, so that a batch can be filled without padding. */
import { EntriesByLength } from './entries-by-length.js'
import type { Entry, ScoringGroup } from './scoring-group.js'

/** Of a batch's length, what may be padding before another group's entry is preferred to the group's own next one. */
const OWN_GROUP_TOLERANCE = 0.03

export interface BatchLimits {
  readonly pairs: number
  /** Padded: pairs x the longest. */
  readonly tokens: number
}

export class PriorityGroups {
  readonly priority: number
  /** Stage of the model that they wait for; undefined: the whole model. */
  readonly stage: number | undefined
  /** Those with something left to take; earliest deadline first, then oldest. */
  readonly #groups: ScoringGroup[] = []
  /** What is not taken yet, and nothing else: it would live as long as its priority has work. */
  readonly #entries = new EntriesByLength()

  constructor(priority: number, stage?: number) {
    this.priority = priority
    this.stage = stage
  }

  /** Whether nothing waits here. */
  get isEmpty(): boolean {
    return this.#groups.length === 0
  }

  add(group: ScoringGroup): void {
    const before = this.#groups.findIndex((g) => g.deadlineAt > group.deadlineAt)
    this.#groups.splice(before < 0 ? this.#groups.length : before, 0, group)
    for (const entry of group.entries) this.#entries.add(entry)
  }

  /** Lets go of a group and what is left of it. */
  remove(group: ScoringGroup): void {
    const place = this.#groups.indexOf(group)
    if (place >= 0) this.#groups.splice(place, 1)
    for (const entry of group.entries) if (!entry.taken) this.#entries.remove(entry)
  }

  /** Ends the groups whose deadline has passed, wherever they stand. */
  expire(now: number): void {
    for (let group = this.#groups[0]; group?.expire(now); group = this.#groups[0]) this.remove(group)
  }

  /** The group to serve next; groups with nothing left to take are dropped on the way. */
  first(): ScoringGroup | undefined {
    for (let group = this.#groups[0]; group; group = this.#groups[0]) {
      if (!group.settled && group.longest()) return group
      this.remove(group)
    }
    return undefined
  }

  /** The group that waits longest, whatever its deadline. */
  oldest(): ScoringGroup | undefined {
    let oldest: ScoringGroup | undefined
    for (const group of this.#groups) {
      if (!group.settled && (!oldest || group.since < oldest.since) && group.longest()) oldest = group
    }
    return oldest
  }

  /** A batch around a group's longest entry, filled with the longest that are no longer than it. */
  take(group: ScoringGroup, limits: BatchLimits): Entry[] {
    const seed = group.longest()
    if (!seed) return []
    const batch = [this.#take(seed)]
    return this.fill(batch, limits, group)
  }

  /** Adds entries while they fit: of the given group where that pads little, else of any group of this priority. */
  fill(batch: Entry[], limits: BatchLimits, group?: ScoringGroup): Entry[] {
    const longest = batch[0]?.tokens ?? 0
    let length = longest
    while (fits(batch.length + 1, longest, limits)) {
      const own = group?.longest()
      if (own && own.tokens >= longest * (1 - OWN_GROUP_TOLERANCE)) {
        batch.push(this.#take(own))
        continue
      }
      let entry: Entry | undefined
      while (length > 0) {
        entry = this.#entries.first(length)
        if (entry) break
        length--
      }
      if (!entry) break
      this.#take(entry)
      if (!entry.group.settled) batch.push(entry)
    }
    return batch
  }

  #take(entry: Entry): Entry {
    entry.taken = true
    this.#entries.remove(entry)
    return entry
  }
}

/** The padded-cost rule: what a batch costs is its count times its longest member (text-embeddings-inference, queue.rs). */
function fits(count: number, longest: number, limits: BatchLimits): boolean {
  return count <= limits.pairs && (count === 1 || count * longest <= limits.tokens)
}
