/** Real models whose calls wait for the test's word: what is run before what can be counted, whatever the machine's speed. */
import type { Options } from '../../shared/options.js'
import type { Batch, BatchOutput, InferenceEngine } from '../../worker/inference/engine.js'
import { modelSource } from '../../worker/model-source.js'
import type { ScorerSource } from '../../worker/scorers.js'

export class Pace {
  /** Batches that the worker has handed over, run or not. */
  handed = 0
  /** Batches that have run. */
  run = 0
  #held = true
  readonly #waiting: (() => void)[] = []

  /** Lets one batch run that waits. */
  step(): void {
    this.#waiting.shift()?.()
  }

  /** Lets every batch run from now on. */
  release(): void {
    this.#held = false
    for (const go of this.#waiting.splice(0)) go()
  }

  hold(): void {
    this.#held = true
  }

  async pass(): Promise<void> {
    this.handed++
    if (this.#held) await new Promise<void>((go) => this.#waiting.push(go))
  }
}

export function pacedSource(options: Options, pace: Pace): ScorerSource {
  const source = modelSource(options)
  return { ...source, createEngine: async (model) => new PacedEngine(await source.createEngine(model), pace) }
}

class PacedEngine implements InferenceEngine {
  readonly #engine: InferenceEngine
  readonly #pace: Pace

  constructor(engine: InferenceEngine, pace: Pace) {
    this.#engine = engine
    this.#pace = pace
  }
  get slots(): number {
    return this.#engine.slots
  }
  get sessions(): number {
    return this.#engine.sessions
  }
  get shape() {
    return this.#engine.shape
  }
  async run(batch: Batch): Promise<BatchOutput> {
    await this.#pace.pass()
    const output = await this.#engine.run(batch)
    this.#pace.run++
    return output
  }
  busyRatio(): number {
    return this.#engine.busyRatio()
  }
  close(): Promise<void> {
    this.#pace.release()
    return this.#engine.close()
  }
}
