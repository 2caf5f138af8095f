/** Merges a long word: a linked list of symbols and a binary heap of candidate pairs, lowest rank and leftmost first. */
import type { MergeTable } from './merge-table.js'

export class MergeQueue {
  private readonly table: MergeTable
  private symbols: Int32Array = new Int32Array(0)
  private next = new Int32Array(0)
  private previous = new Int32Array(0)
  /** Heap entries: rank times 2^26 plus position, so that one comparison orders by both. */
  private heap: number[] = []

  constructor(table: MergeTable) {
    this.table = table
  }

  /** The symbols that are left; the argument is used as working space. Words under 2^26 bytes. */
  merge(symbols: Int32Array): Int32Array {
    const count = symbols.length
    this.symbols = symbols
    this.next = Int32Array.from(symbols, (_, at) => (at + 1 < count ? at + 1 : -1))
    this.previous = Int32Array.from(symbols, (_, at) => at - 1)
    this.heap = []
    for (let at = 0; at + 1 < count; at += 1) this.offer(at)
    for (let entry = this.take(); entry !== undefined; entry = this.take()) {
      const position = entry % POSITIONS
      const right = this.next[position] ?? -1
      const rank = (entry - position) / POSITIONS
      // A pair that has changed since it was offered has another rank now, or none.
      const current = right < 0 || symbols[position] === GONE ? -1 : this.rankAt(position, right)
      if (current === rank) this.join(position, right, rank)
    }
    return symbols.filter((symbol) => symbol !== GONE)
  }

  private rankAt(position: number, right: number): number {
    return this.table.rank(this.symbols[position] ?? 0, this.symbols[right] ?? 0)
  }

  private join(position: number, right: number, rank: number): void {
    this.symbols[position] = this.table.result(rank)
    this.symbols[right] = GONE
    const after = this.next[right] ?? -1
    this.next[position] = after
    if (after >= 0) {
      this.previous[after] = position
      this.offer(position)
    }
    const before = this.previous[position] ?? -1
    if (before >= 0) this.offer(before)
  }

  private offer(position: number): void {
    const right = this.next[position] ?? -1
    const rank = right < 0 ? -1 : this.rankAt(position, right)
    if (rank >= 0) this.push(rank * POSITIONS + position)
  }

  private push(entry: number): void {
    const { heap } = this
    let at = heap.length
    heap.push(entry)
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = heap[parent] ?? 0
      if (above <= entry) break
      heap[at] = above
      at = parent
    }
    heap[at] = entry
  }

  private take(): number | undefined {
    const { heap } = this
    const top = heap[0]
    const last = heap.pop()
    if (top === undefined || last === undefined || heap.length === 0) return top
    let at = 0
    for (;;) {
      let child = at * 2 + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && (heap[child + 1] ?? 0) < (heap[child] ?? 0)) child += 1
      const below = heap[child] ?? 0
      if (below >= last) break
      heap[at] = below
      at = child
    }
    heap[at] = last
    return top
  }
}

const POSITIONS = 2 ** 26
const GONE = -1
