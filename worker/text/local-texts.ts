/** Work on texts without a thread: for measurements of everything else, and for tests. */
import type { Urgency } from '../batching/urgency.js'
import { TimeSlice } from '../time-slice.js'
import type { TextOutput, TextRunner, TextTask } from './text-tasks.js'
import { TextWork } from './text-work.js'

export class LocalTexts implements TextRunner {
  readonly #work: TextWork
  readonly #slice = new TimeSlice()

  constructor(load: ConstructorParameters<typeof TextWork>[0]) {
    this.#work = new TextWork(load, 1)
  }

  async run<T extends TextTask>(task: T, _urgency: Urgency, signal: AbortSignal): Promise<TextOutput<T>> {
    signal.throwIfAborted()
    if (this.#slice.isOver) await this.#slice.pause(signal)
    return this.#work.run(task)
  }

  async close(): Promise<void> {}
}
