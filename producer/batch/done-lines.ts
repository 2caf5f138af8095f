/**
 * Which items of an input are done: all up to a mark, and some beyond it. What it holds grows with the items under way,
 * not with those that are done: neighbours that are done become one stretch.
 */

import type { BatchItem, InputMark } from './batch-source.js'
import { type LineRange, mergedRanges } from './line-ranges.js'

/** Items that were read one after another, and are done; or one that is under way. */
interface Stretch {
  readonly first: number
  last: number
  /** Offset after the last, and the digest of the input up to there. */
  end: number
  digest: string
  items: number
  done: boolean
  before: Stretch | undefined
  after: Stretch | undefined
}

export class DoneLines {
  #mark: InputMark
  #items: number
  /** Done in an earlier run, and not yet read again in this one; those before `#next` are. */
  readonly #before: readonly LineRange[]
  #next = 0
  #lastRead: number
  #head: Stretch | undefined
  #tail: Stretch | undefined
  readonly #underWay = new Map<number, Stretch>()

  /**
   * @param items how many lie up to the mark
   * @param beyond lines after the mark that are done
   */
  constructor(mark: InputMark, items: number, beyond: Iterable<LineRange>) {
    this.#mark = mark
    this.#items = items
    this.#lastRead = mark.line
    this.#before = mergedRanges(beyond)
  }

  /** Everything up to here is done. */
  get mark(): InputMark {
    return this.#mark
  }

  /** Items up to the mark. */
  get items(): number {
    return this.#items
  }

  /** Lines after the mark that are done. Lines without an item may be among them. */
  beyond(): LineRange[] {
    const ranges: LineRange[] = []
    for (let stretch = this.#head; stretch; stretch = stretch.after) {
      if (stretch.done) ranges.push([stretch.first, stretch.last])
    }
    for (const [first, last] of this.#before.slice(this.#next)) {
      if (last > this.#lastRead) ranges.push([Math.max(first, this.#lastRead + 1), last])
    }
    return mergedRanges(ranges)
  }

  /** Notes an item that was read. @returns whether it was done before */
  begin({ line, end, digest }: Pick<BatchItem, 'line' | 'end' | 'digest'>): boolean {
    this.#lastRead = line
    while ((this.#before[this.#next]?.[1] ?? line) < line) this.#next++
    const done = (this.#before[this.#next]?.[0] ?? line + 1) <= line
    const at = { first: line, last: line, end, digest }
    const stretch: Stretch = { ...at, items: 1, done, before: this.#tail, after: undefined }
    if (this.#tail) this.#tail.after = stretch
    else this.#head = stretch
    this.#tail = stretch
    if (done) this.#join(stretch)
    else this.#underWay.set(line, stretch)
    return done
  }

  finish({ line }: Pick<BatchItem, 'line'>): void {
    const stretch = this.#underWay.get(line)
    if (!stretch) return
    this.#underWay.delete(line)
    stretch.done = true
    this.#join(stretch)
  }

  /** Makes a stretch that is done one with its neighbours that are, and moves the mark over it where it is the first. */
  #join(stretch: Stretch): void {
    const joined = stretch.before?.done ? this.#unite(stretch.before, stretch) : stretch
    const whole = joined.after?.done ? this.#unite(joined, joined.after) : joined
    if (this.#head !== whole) return
    this.#mark = { line: whole.last, offset: whole.end, digest: whole.digest }
    this.#items += whole.items
    this.#head = whole.after
    if (this.#head) this.#head.before = undefined
    else this.#tail = undefined
  }

  #unite(left: Stretch, right: Stretch): Stretch {
    left.last = right.last
    left.end = right.end
    left.digest = right.digest
    left.items += right.items
    left.after = right.after
    if (right.after) right.after.before = left
    else this.#tail = left
    return left
  }
}
