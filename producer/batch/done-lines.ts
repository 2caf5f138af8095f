/** Which items of an input are done: all up to a mark, and some beyond it. */
import type { BatchItem, InputMark } from './batch-source.js'

interface Begun {
  readonly item: BatchItem
  done: boolean
}

export class DoneLines {
  #mark: InputMark
  /** Done in an earlier run, and not yet read again in this one. */
  readonly #before: Set<number>
  /** In order; those before `#first` have passed the mark. */
  #begun: Begun[] = []
  #first = 0
  readonly #byLine = new Map<number, Begun>()
  #passedIds: string[] = []

  constructor(mark: InputMark, beyond: Iterable<number>) {
    this.#mark = mark
    this.#before = new Set(beyond)
  }

  /** Everything up to here is done. */
  get mark(): InputMark {
    return this.#mark
  }

  /** Lines after the mark that are done. */
  beyond(): number[] {
    const lines = [...this.#before]
    for (const { item, done } of this.#byLine.values()) if (done) lines.push(item.line)
    return lines
  }

  /** Notes an item that was read. @returns whether it was done before */
  begin(item: BatchItem): boolean {
    const done = this.#before.delete(item.line)
    const begun = { item, done }
    this.#begun.push(begun)
    this.#byLine.set(item.line, begun)
    if (done) this.#advance()
    return done
  }

  finish(item: BatchItem): void {
    const begun = this.#byLine.get(item.line)
    if (begun) begun.done = true
    this.#advance()
  }

  /** Custom ids of the items that passed the mark since the last call. */
  takePassedIds(): string[] {
    return this.#passedIds.splice(0)
  }

  #advance(): void {
    for (let begun = this.#begun[this.#first]; begun?.done; begun = this.#begun[++this.#first]) {
      const { line, end, digest, customId } = begun.item
      this.#mark = { line, offset: end, digest }
      if (customId !== null) this.#passedIds.push(customId)
      this.#byLine.delete(line)
    }
    if (this.#first > 1024 && this.#first * 2 > this.#begun.length) {
      this.#begun = this.#begun.slice(this.#first)
      this.#first = 0
    }
  }
}
