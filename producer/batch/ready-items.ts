/** Answers on their way to the output: handed on in the order of their items, or as they come. */
import type { BatchItem, BatchOutcome } from './batch-source.js'

export interface Answered {
  readonly item: BatchItem
  readonly outcome: BatchOutcome
  /** Under which Redis knows it; undefined where it was never asked. */
  readonly requestId?: string | undefined
}

interface Place {
  answered: Answered | undefined
}

export class ReadyItems {
  readonly #inOrder: boolean
  #places: Place[] = []
  #ready: Answered[] = []

  constructor(inOrder: boolean) {
    this.#inOrder = inOrder
  }

  /** Keeps the next place in the order. @returns what to call with the answer, once */
  reserve(): (answered: Answered) => void {
    if (!this.#inOrder) return (answered) => void this.#ready.push(answered)
    const place: Place = { answered: undefined }
    this.#places.push(place)
    return (answered) => {
      place.answered = answered
    }
  }

  /** All that can be written now. */
  take(): Answered[] {
    if (!this.#inOrder) return this.#ready.splice(0)
    let count = 0
    while (this.#places[count]?.answered) count++
    return this.#places.splice(0, count).flatMap(({ answered }) => answered ?? [])
  }
}
