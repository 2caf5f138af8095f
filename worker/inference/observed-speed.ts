/**
 * Whether real calls are so much faster than calibration found that it must have met a busy machine, whatever the machine
 * looked like just before. What it chose then is chance, and is to be measured anew.
 */
import type { Batch, BatchShape } from './engine.js'

/** Of the tokens a second that were measured; less is what lengths of texts and neighbours make of it. */
const FASTER = 1.5
/** Calls that are compared: a few are lucky. */
const ENOUGH_CALLS = 64
/** The shortest pairs that calibration measures with; a token of shorter ones costs less. */
const MEASURED_LENGTH = 96

export class ObservedSpeed {
  readonly #measured: number
  readonly #sessions: number
  readonly #fullTokens: number
  #calls = 0
  #tokens = 0
  #ms = 0

  /** @param tokensPerSecond of all sessions together, as calibration measured them in this shape */
  constructor(tokensPerSecond: number, { sessions, batchTokens }: BatchShape) {
    this.#measured = tokensPerSecond
    this.#sessions = sessions
    this.#fullTokens = batchTokens / 2
  }

  /** Notes a call, if it is like those that were measured: of the whole model, without common beginnings, and full. */
  add({ size, length, stage, prefixes }: Batch, inferenceMs: number): void {
    const tokens = size * length
    if (stage !== undefined || prefixes !== undefined || length < MEASURED_LENGTH || tokens < this.#fullTokens) return
    this.#calls++
    this.#tokens += tokens
    this.#ms += inferenceMs
  }

  /** Tokens a second of all sessions together. */
  get tokensPerSecond(): number {
    return this.#ms === 0 ? 0 : (this.#sessions * this.#tokens * 1000) / this.#ms
  }

  get isFaster(): boolean {
    return this.#calls >= ENOUGH_CALLS && this.tokensPerSecond > FASTER * this.#measured
  }
}
