/** Scorers whose calls take a time that is given, and no CPU: workers that could stand on machines of their own. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Batch, BatchOutput, BatchShape } from '../worker/inference/engine.js'
import { FakeEngine } from '../worker/inference/fake-engine.js'
import type { ScorerSource } from '../worker/scorers.js'
import { fakeSource } from './fake-source.js'

/** What its calls took: timers are late by a little, and what is simulated afterwards has to know. */
export class CallTimes {
  pairs = 0
  seconds = 0
}

class TimedEngine extends FakeEngine {
  readonly #msPerPair: number
  readonly #times: CallTimes
  readonly #free: Promise<unknown>[]

  constructor(shape: BatchShape, msPerPair: number, times: CallTimes) {
    super(shape)
    this.#msPerPair = msPerPair
    this.#times = times
    this.#free = Array.from({ length: shape.sessions }, async () => undefined)
  }

  override async run(batch: Batch): Promise<BatchOutput> {
    const free = this.#free.shift()
    const called = Promise.resolve(free).then(async () => {
      const startedAt = performance.now()
      await delay(batch.size * this.#msPerPair)
      const output = await super.run(batch)
      this.#times.pairs += batch.size
      this.#times.seconds += (performance.now() - startedAt) / 1000
      return output
    })
    this.#free.push(called.catch(() => undefined))
    return called
  }
}

/** An engine of that many sessions; 0 ms a pair answers at once. */
export function timedSource(shape: BatchShape, msPerPair: number, times: CallTimes): ScorerSource {
  const createEngine = async () => (msPerPair === 0 ? new FakeEngine() : new TimedEngine(shape, msPerPair, times))
  return { ...fakeSource, createEngine }
}
