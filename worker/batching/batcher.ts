/**
 * Forms the batches: pairs of different jobs share model calls. Work goes out as long as the engine has room (one batch
 * runs and one is prepared in each session) and not before, so that a late, urgent pair can still overtake. Nothing is
 * ever held back to wait for company: while the sessions are busy, company comes by itself.
 *
 * Pairs of different stages of a model never share a call; those of one stage do, whichever jobs they are of.
 *
 * Order: priority, then deadline, then the later stage (what has begun is ended, and frees its memory), then age; every
 * fourth batch goes to the pairs that have waited longer than the age limit, so that nobody starves.
 */
import { RankmillError } from '../../shared/errors.js'
import type { InferenceEngine, States } from '../inference/engine.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'
import { assembleBatch } from './batch-assembly.js'
import { putStates, type StateShapes, takeStates } from './carried-states.js'
import { type BatchLimits, PriorityGroups } from './priority-groups.js'
import { type Entry, type GroupScores, ScoringGroup } from './scoring-group.js'

export interface BatcherOptions {
  readonly padId: number
  readonly withTypes: boolean
  /** Of a model with exits: what each stage hands to the next. */
  readonly carries?: readonly StateShapes[]
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
  /** Of a model with exits: which stage, from 0. Without it the whole model runs. */
  readonly stage?: number
  /** What the stage before gave for the pairs. */
  readonly states?: readonly (States | undefined)[]
  readonly priority: number
  /** Milliseconds since 1970. */
  readonly deadlineAt: number | null
  readonly signal: AbortSignal
}

interface Batched {
  readonly entries: Entry[]
  readonly stage: number | undefined
}

/** A group, and those that it waits among. */
interface Next {
  readonly group: ScoringGroup
  readonly among: PriorityGroups
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
  readonly #retries: Batched[] = []
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
  async score({ pairs, stage, states, priority, deadlineAt, signal }: ScoringRequest): Promise<GroupScores> {
    signal.throwIfAborted()
    if (this.#closed) throw this.#closed
    const { keptTokens } = this.#engine
    const group = new ScoringGroup(pairs, priority, deadlineAt, this.#options.now(), states, keptTokens)
    const abort = () => group.fail(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    const groups = this.#groups(priority, stage)
    this.#waiting += pairs.length
    try {
      groups.add(group)
      this.#pump()
      return await group.done
    } finally {
      this.#waiting -= pairs.length
      signal.removeEventListener('abort', abort)
      groups.remove(group)
      if (groups.isEmpty) this.#drop(groups)
    }
  }

  /** Refuses further work and gives back what waits; calls under way end by themselves. */
  close(): void {
    this.#closed = new RankmillError('closed', 'the worker is stopping')
    for (const groups of this.#priorities) {
      for (let group = groups.first(); group; group = groups.first()) group.fail(this.#closed)
    }
  }

  #groups(priority: number, stage: number | undefined): PriorityGroups {
    const found = this.#priorities.find((groups) => groups.priority === priority && groups.stage === stage)
    if (found) return found
    const groups = new PriorityGroups(priority, stage)
    const isBehind = (other: PriorityGroups) =>
      other.priority > priority || (other.priority === priority && (other.stage ?? -1) < (stage ?? -1))
    const at = this.#priorities.findIndex(isBehind)
    this.#priorities.splice(at < 0 ? this.#priorities.length : at, 0, groups)
    return groups
  }

  /** Forgets a priority that has no work, or one would be looked through for every number ever used. */
  #drop(groups: PriorityGroups): void {
    const place = this.#priorities.indexOf(groups)
    if (place >= 0) this.#priorities.splice(place, 1)
  }

  #pump(): void {
    while (this.#inFlight < this.#engine.slots) {
      const batch = this.#next()
      if (batch.entries.length === 0) return
      void this.#run(batch)
    }
  }

  #next(): Batched {
    const now = this.#options.now()
    for (const groups of this.#priorities) groups.expire(now)
    for (let retry = this.#retries.shift(); retry; retry = this.#retries.shift()) {
      const entries = retry.entries.filter(({ group }) => !group.expire(now) && !group.settled)
      if (entries.length > 0) return { entries, stage: retry.stage }
    }
    const limits = this.#limits()
    const next = this.#nextGroup(now)
    if (!next) return { entries: [], stage: undefined }
    const { stage } = next.among
    const entries = next.among.take(next.group, limits)
    // Room that the group's own priority cannot fill costs nothing to fill from the others.
    for (const groups of this.#priorities) if (groups.stage === stage) groups.fill(entries, limits)
    return { entries, stage }
  }

  #nextGroup(now: number): Next | undefined {
    this.#sinceAged++
    if (this.#sinceAged >= AGED_EVERY) {
      this.#sinceAged = 0
      const oldest = this.#priorities.reduce<Next | undefined>((best, among) => {
        const group = among.oldest()
        return group && (!best || group.since < best.group.since) ? { group, among } : best
      }, undefined)
      if (oldest && now - oldest.group.since > this.#options.maxEntryAgeMs) return oldest
    }
    let best: Next | undefined
    for (const among of this.#priorities) {
      if (best && among.priority > best.among.priority) break
      const group = among.first()
      if (group && (!best || group.deadlineAt < best.group.deadlineAt)) best = { group, among }
    }
    return best
  }

  #limits(): BatchLimits {
    const { batchPairs, batchTokens } = this.#engine.shape
    if (this.#shrink < 1 && this.#options.now() - this.#shrunkAt > SHRUNK_MS) this.#shrink = 1
    return {
      pairs: Math.max(1, Math.floor(batchPairs * this.#shrink)),
      tokens: Math.max(1, Math.floor(batchTokens * this.#shrink)),
    }
  }

  async #run({ entries, stage }: Batched): Promise<void> {
    const { padId, withTypes, carries, now, observe } = this.#options
    const dispatchedAt = now()
    if (this.#inFlight === 0) this.#lastProgressAt = dispatchedAt
    this.#inFlight++
    try {
      const batch = assembleBatch(entries, padId, withTypes)
      const { size: pairs, length } = batch
      const before = carries?.[(stage ?? 0) - 1]
      const states =
        before &&
        putStates(
          entries.map((entry) => entry.states ?? {}),
          before,
          length,
        )
      const staged = stage === undefined ? batch : batch.at(stage, states)
      const { logits, states: given, inferenceMs } = await this.#engine.run(staged)
      const tokens = entries.reduce((sum, entry) => sum + entry.tokens, 0)
      const longest = entries.reduce((most, entry) => Math.max(most, entry.tokens), 0)
      observe({ pairs, tokens, paddedTokens: pairs * longest, inferenceMs })
      const width = logits.length / pairs
      entries.forEach((entry, row) => {
        const { group, pair } = entry
        const own =
          given && !group.settled
            ? takeStates(given, carries?.[stage ?? 0] ?? {}, row, length, pair.ids.length)
            : undefined
        const values = logits.subarray(row * width, (row + 1) * width)
        group.score(entry, values, dispatchedAt - group.since, inferenceMs / pairs, own)
      })
      this.#lastProgressAt = now()
    } catch (error) {
      this.#failed({ entries, stage }, RankmillError.from(error, 'inference_failed'))
    } finally {
      this.#inFlight--
      this.#pump()
    }
  }

  /** Halves a failed batch until the pair that makes it fail stands alone; only that pair's request fails. */
  #failed({ entries, stage }: Batched, error: RankmillError): void {
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
    this.#retries.push({ entries: entries.slice(0, half), stage }, { entries: entries.slice(half), stage })
  }
}
