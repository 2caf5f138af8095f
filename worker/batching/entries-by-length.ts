/** Entries by their length in tokens, the oldest first; any of them can be taken out at once, wherever it stands. */
import type { Entry } from './scoring-group.js'

/** A place in the list of a length. */
interface Link {
  readonly entry: Entry
  before: Link | undefined
  behind: Link | undefined
}

interface List {
  first: Link | undefined
  last: Link | undefined
}

export class EntriesByLength {
  readonly #links = new Map<Entry, Link>()
  readonly #lists = new Map<number, List>()

  add(entry: Entry): void {
    const length = entry.pair.ids.length
    const list = this.#lists.get(length) ?? { first: undefined, last: undefined }
    this.#lists.set(length, list)
    const link: Link = { entry, before: list.last, behind: undefined }
    if (list.last) list.last.behind = link
    else list.first = link
    list.last = link
    this.#links.set(entry, link)
  }

  remove(entry: Entry): void {
    const link = this.#links.get(entry)
    const list = this.#lists.get(entry.pair.ids.length)
    if (!link || !list) return
    this.#links.delete(entry)
    const { before, behind } = link
    if (before) before.behind = behind
    else list.first = behind
    if (behind) behind.before = before
    else list.last = before
    if (!list.first) this.#lists.delete(entry.pair.ids.length)
  }

  /** The oldest of a length. */
  first(length: number): Entry | undefined {
    return this.#lists.get(length)?.first?.entry
  }
}
