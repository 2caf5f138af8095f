/**
 * Forms the batches: pairs of different jobs share model calls. Work goes out as long as the engine has room (one batch
 * runs and one is prepared in each session) and not before, so that a late, urgent pair can still overtake. Nothing is
 * ever held back to wait for company: while the sessions are busy, company comes by itself.
 *
 * Order: priority, then deadline, then age; every fourth batch goes to the pairs that have waited longer than the age
 * limit, so that nobody starves.
 */
import { RankmillError } from '../../shared/errors.js'
import type { InferenceEngine } from '../inference/engine.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'
import { assembleBatch } from './batch-assembly.js'
import { type BatchLimits, PriorityGroups } from './priority-groups.js'
import { type Entry, type GroupScores, ScoringGroup } from './scoring-group.js'

export interface BatcherOptions {
  readonly padId: number
  readonly withTypes: boolean
  readonly maxEntryAgeMs: number
  readonly now: () => number
  readonly observe: (batch: BatchObservation) => void
}

/** One finished model call, for the metrics. */
export interface BatchObservation {
  readonly pairs: number
  readonly tokens: number
  readonly paddedTokens: number
  readonly inferenceMs: number
}

export interface ScoringRequest {
  readonly pairs: readonly EncodedPair[]
  readonly priority: number
  /** Milliseconds since 1970. */
  readonly deadlineAt: number | null
  readonly signal: AbortSignal
}

/** How often pairs over the age limit go first. */
const AGED_EVERY = 4
/** For how long the budget stays halved after the model ran out of memory. */
const SHRUNK_MS = 60_000

export class Batcher {
  readonly #engine: InferenceEngine
  readonly #options: BatcherOptions
  readonly #priorities: PriorityGroups[] = []
  /** Halves of failed batches; they go first, so that a failure is over soon. */
  readonly #retries: Entry[][] = []
  #inFlight = 0
  #sinceAged = 0
  #shrink = 1
  #shrunkAt = 0
  #closed: RankmillError | undefined
  #lastProgressAt: number
  #waiting = 0

  constructor(engine: InferenceEngine, options: BatcherOptions) {
    this.#engine = engine
    this.#options = options
    this.#lastProgressAt = options.now()
  }

  /** When a batch was last finished, for liveness; now, if nothing is waiting. */
  get lastProgressAt(): number {
    return this.#inFlight === 0 ? this.#options.now() : this.#lastProgressAt
  }

  /** Pairs that were handed in and are not scored yet. */
  get pairsWaiting(): number {
    return this.#waiting
  }

  /**
   * Scores pairs.
   *
   * @throws RankmillError `inference_failed` (with the pair's index), `out_of_memory`, `worker_lost`, `deadline_exceeded`,
   *   `closed`; or the signal's reason
   */
  async score({ pairs, priority, deadlineAt, signal }: ScoringRequest): Promise<GroupScores> {
    signal.throwIfAborted()
    if (this.#closed) throw this.#closed
    const group = new ScoringGroup(pairs, priority, deadlineAt, this.#options.now())
    const abort = () => group.fail(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    this.#waiting += pairs.length
    try {
      this.#priority(priority).add(group)
      this.#pump()
      return await group.done
    } finally {
      this.#waiting -= pairs.length
      signal.removeEventListener('abort', abort)
    }
  }

  /** Refuses further work and gives back what waits; calls under way end by themselves. */
  close(): void {
    this.#closed = new RankmillError('closed', 'the worker is stopping')
    for (const groups of this.#priorities) {
      for (let group = groups.first(); group; group = groups.first()) group.fail(this.#closed)
    }
  }

  #priority(priority: number): PriorityGroups {
    const at = this.#priorities.findIndex((groups) => groups.priority >= priority)
    const found = this.#priorities[at]
    if (found?.priority === priority) return found
    const groups = new PriorityGroups(priority)
    this.#priorities.splice(at < 0 ? this.#priorities.length : at, 0, groups)
    return groups
  }

  #pump(): void {
    while (this.#inFlight < this.#engine.slots) {
      const batch = this.#next()
      if (batch.length === 0) return
      void this.#run(batch)
    }
  }

  #next(): Entry[] {
    for (let retry = this.#retries.shift(); retry; retry = this.#retries.shift()) {
      const wanted = retry.filter((entry) => !entry.group.settled)
      if (wanted.length > 0) return wanted
    }
    const limits = this.#limits()
    const group = this.#nextGroup()
    if (!group) return []
    const batch = this.#priority(group.priority).take(group, limits)
    // Room that the group's own priority cannot fill costs nothing to fill from the others.
    for (const groups of this.#priorities) groups.fill(batch, limits)
    return batch
  }

  #nextGroup(): ScoringGroup | undefined {
    const now = this.#options.now()
    this.#sinceAged++
    if (this.#sinceAged >= AGED_EVERY) {
      this.#sinceAged = 0
      const oldest = this.#priorities
        .map((groups) => groups.oldest())
        .reduce((a, b) => (a && b ? (a.since <= b.since ? a : b) : (a ?? b)), undefined)
      if (oldest && now - oldest.since > this.#options.maxEntryAgeMs && oldest.deadlineAt > now) return oldest
    }
    for (const groups of this.#priorities) {
      for (let group = groups.first(); group; group = groups.first()) {
        if (group.deadlineAt > now) return group
        group.fail(new RankmillError('deadline_exceeded', 'the deadline passed while the request waited for the model'))
      }
    }
    return undefined
  }

  #limits(): BatchLimits {
    const { batchPairs, batchTokens } = this.#engine.shape
    if (this.#shrink < 1 && this.#options.now() - this.#shrunkAt > SHRUNK_MS) this.#shrink = 1
    return {
      pairs: Math.max(1, Math.floor(batchPairs * this.#shrink)),
      tokens: Math.max(1, Math.floor(batchTokens * this.#shrink)),
    }
  }

  async #run(entries: Entry[]): Promise<void> {
    const { padId, withTypes, now, observe } = this.#options
    const dispatchedAt = now()
    if (this.#inFlight === 0) this.#lastProgressAt = dispatchedAt
    this.#inFlight++
    try {
      const batch = assembleBatch(entries, padId, withTypes)
      const { size: pairs, length } = batch
      const { logits, inferenceMs } = await this.#engine.run(batch)
      const tokens = entries.reduce((sum, { pair }) => sum + pair.ids.length, 0)
      observe({ pairs, tokens, paddedTokens: pairs * length, inferenceMs })
      entries.forEach((entry, row) => {
        const { group } = entry
        group.score(entry, logits[row] ?? Number.NaN, dispatchedAt - group.since, inferenceMs / pairs)
      })
      this.#lastProgressAt = now()
    } catch (error) {
      this.#failed(entries, RankmillError.from(error, 'inference_failed'))
    } finally {
      this.#inFlight--
      this.#pump()
    }
  }

  /** Halves a failed batch until the pair that makes it fail stands alone; only that pair's request fails. */
  #failed(entries: Entry[], error: RankmillError): void {
    if (error.code === 'out_of_memory') {
      this.#shrink = Math.max(this.#shrink / 2, 1 / 64)
      this.#shrunkAt = this.#options.now()
    }
    const [only] = entries
    if (this.#closed || (only && entries.length === 1)) {
      const details = { ...error.details, ...(only ? { index: only.index } : {}) }
      for (const { group } of entries) group.fail(this.#closed ?? new RankmillError(error.code, error.message, details))
      return
    }
    const half = Math.ceil(entries.length / 2)
    this.#retries.push(entries.slice(0, half), entries.slice(half))
  }
}
