/** The pairs of one job on their way through the batcher. */
import { RankmillError } from '../../shared/errors.js'
import type { States } from '../inference/engine.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'

/** An encoded pair waiting in the batcher. */
export interface Entry {
  readonly group: ScoringGroup
  /** Place in the group. */
  readonly index: number
  readonly pair: EncodedPair
  /** Those that the model reads for it: all, but for a beginning that is kept. */
  readonly tokens: number
  /** What the stage before gave for the pair. */
  states?: States | undefined
  taken: boolean
  /** Neighbours of its length, while it waits among others (`EntriesByLength`). */
  before: Entry | undefined
  behind: Entry | undefined
}

export interface GroupScores {
  /** One logit a pair, in the order of the pairs; of a bi-encoder its embedding. */
  readonly logits: Float32Array
  /** What the next stage needs of each pair; undefined after a whole model or its last stage. */
  readonly states: readonly (States | undefined)[]
  /** Mean wait of a pair for its batch. */
  readonly batchWaitMs: number
  /** This group's share of the model's time. */
  readonly inferenceMs: number
}

export class ScoringGroup {
  readonly priority: number
  readonly deadlineAt: number
  readonly since: number
  /** Shortest first; the longest that is left is taken from the end. */
  readonly entries: readonly Entry[]
  readonly done: Promise<GroupScores>
  #untaken: number
  #unsettled: number
  #waitedMs = 0
  #inferenceMs = 0
  #settled = false
  readonly #pairs: number
  /** As wide as what the first pair gets. */
  #logits = new Float32Array()
  readonly #states: (States | undefined)[]
  #resolve: (scores: GroupScores) => void = () => undefined
  #reject: (error: unknown) => void = () => undefined

  /** @param keptTokens longest beginning of pairs whose work the engine keeps */
  constructor(
    pairs: readonly EncodedPair[],
    priority: number,
    deadlineAt: number | null,
    now: number,
    states?: readonly (States | undefined)[],
    keptTokens = 0,
  ) {
    this.priority = priority
    this.deadlineAt = deadlineAt ?? Number.POSITIVE_INFINITY
    this.since = now
    this.entries = pairs
      .map((pair, index): Entry => {
        const alone = { before: undefined, behind: undefined }
        const { ids, prefix = 0 } = pair
        const tokens = prefix <= keptTokens ? ids.length - prefix : ids.length
        return { group: this, index, pair, tokens, states: states?.[index], taken: false, ...alone }
      })
      .sort((a, b) => a.tokens - b.tokens)
    this.#untaken = pairs.length
    this.#unsettled = pairs.length
    this.#pairs = pairs.length
    this.#states = new Array(pairs.length).fill(undefined)
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    if (pairs.length === 0) this.#finish()
  }

  /** Whether its outcome is known: what is left of it needs no scoring. */
  get settled(): boolean {
    return this.#settled
  }

  /** The longest entry that is not in a batch yet. */
  longest(): Entry | undefined {
    while (this.#untaken > 0) {
      const entry = this.entries[this.#untaken - 1]
      if (entry && !entry.taken) return entry
      this.#untaken--
    }
    return undefined
  }

  /** @param row what the model gave for the pair: its logit, or its embedding */
  score(entry: Entry, row: Float32Array, waitedMs: number, inferenceMs: number, states?: States): void {
    if (this.#settled) return
    let finite = 0
    while (finite < row.length && Number.isFinite(row[finite])) finite++
    if (row.length === 0 || finite < row.length) {
      const given = row[finite] ?? 'nothing'
      this.fail(new RankmillError('inference_failed', `the model gives ${given}`, { index: entry.index }))
      return
    }
    if (this.#logits.length === 0) this.#logits = new Float32Array(this.#pairs * row.length)
    this.#logits.set(row, entry.index * row.length)
    this.#states[entry.index] = states
    // The group lives until its last pair is scored; the memory of this one is wanted now.
    entry.states = undefined
    this.#waitedMs += waitedMs
    this.#inferenceMs += inferenceMs
    this.#unsettled--
    if (this.#unsettled === 0) this.#finish()
  }

  /** Ends it where its deadline has passed; says whether that is so. */
  expire(now: number): boolean {
    if (this.deadlineAt > now) return false
    this.fail(new RankmillError('deadline_exceeded', 'the deadline passed while the request waited for the model'))
    return true
  }

  fail(error: unknown): void {
    if (this.#settled) return
    this.#settled = true
    this.#reject(error)
  }

  #finish(): void {
    this.#settled = true
    const count = Math.max(1, this.#pairs)
    this.#resolve({
      logits: this.#logits,
      states: this.#states,
      batchWaitMs: this.#waitedMs / count,
      inferenceMs: this.#inferenceMs,
    })
  }
}
