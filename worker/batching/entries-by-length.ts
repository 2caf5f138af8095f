/** Entries by the tokens that the model reads for them, the oldest first; any of them can be taken out at once, wherever it stands. */
import type { Entry } from './scoring-group.js'

interface List {
  first: Entry | undefined
  last: Entry | undefined
}

export class EntriesByLength {
  readonly #lists = new Map<number, List>()

  add(entry: Entry): void {
    const length = entry.tokens
    const list = this.#lists.get(length) ?? { first: undefined, last: undefined }
    if (!list.last) this.#lists.set(length, list)
    entry.before = list.last
    entry.behind = undefined
    if (list.last) list.last.behind = entry
    else list.first = entry
    list.last = entry
  }

  /** Nothing happens with one that is not among them. */
  remove(entry: Entry): void {
    const list = this.#lists.get(entry.tokens)
    const { before, behind } = entry
    if (!list || (!before && list.first !== entry)) return
    if (before) before.behind = behind
    else list.first = behind
    if (behind) behind.before = before
    else list.last = before
    entry.before = undefined
    entry.behind = undefined
    if (!list.first) this.#lists.delete(entry.tokens)
  }

  /** The oldest of a length. */
  first(length: number): Entry | undefined {
    return this.#lists.get(length)?.first
  }
}
