/** Work on the event loop that others must not wait for: lock renewal, finished batches, more urgent jobs. */
import { setImmediate } from 'node:timers/promises'

/** After so long others go first. */
const SLICE_MS = 8

export class TimeSlice {
  #end = performance.now() + SLICE_MS

  /**
   * To be awaited between small pieces of work: lets others go first when the slice is used up.
   *
   * @throws the signal's reason
   */
  async pause(signal?: AbortSignal): Promise<void> {
    await setImmediate()
    signal?.throwIfAborted()
    this.#end = performance.now() + SLICE_MS
  }

  /** Whether it is time for a pause. */
  get isOver(): boolean {
    return performance.now() > this.#end
  }
}
