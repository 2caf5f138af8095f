/** The groups of one priority and stage, with their entries by length, so that a batch can be filled without padding. */
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
  /** Earliest deadline first, then oldest. */
  readonly #groups: ScoringGroup[] = []
  readonly #byLength: (Entry[] | undefined)[] = []

  constructor(priority: number, stage?: number) {
    this.priority = priority
    this.stage = stage
  }

  add(group: ScoringGroup): void {
    const before = this.#groups.findIndex((g) => g.deadlineAt > group.deadlineAt)
    this.#groups.splice(before < 0 ? this.#groups.length : before, 0, group)
    for (const entry of group.entries) {
      const length = entry.pair.ids.length
      const entries = this.#byLength[length]
      if (entries) entries.push(entry)
      else this.#byLength[length] = [entry]
    }
  }

  /** The group to serve next; groups with nothing left to take are dropped on the way. */
  first(): ScoringGroup | undefined {
    for (let group = this.#groups[0]; group; group = this.#groups[0]) {
      if (!group.settled && group.longest()) return group
      this.#groups.shift()
    }
    this.#byLength.length = 0
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
    const longest = batch[0]?.pair.ids.length ?? 0
    let length = longest
    while (fits(batch.length + 1, longest, limits)) {
      const own = group?.longest()
      if (own && own.pair.ids.length >= longest * (1 - OWN_GROUP_TOLERANCE)) {
        batch.push(this.#take(own))
        continue
      }
      let entry: Entry | undefined
      while (length > 0) {
        entry = this.#pop(length)
        if (entry) break
        length--
      }
      if (!entry) break
      batch.push(this.#take(entry))
    }
    return batch
  }

  #take(entry: Entry): Entry {
    entry.taken = true
    return entry
  }

  #pop(length: number): Entry | undefined {
    const entries = this.#byLength[length]
    while (entries && entries.length > 0) {
      const entry = entries.pop()
      if (entry && !entry.taken && !entry.group.settled) return entry
    }
    return undefined
  }
}

/** The padded-cost rule: what a batch costs is its count times its longest member (text-embeddings-inference, queue.rs). */
function fits(count: number, longest: number, limits: BatchLimits): boolean {
  return count <= limits.pairs && (count === 1 || count * longest <= limits.tokens)
}
