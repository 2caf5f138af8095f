/** The merges of a BPE vocabulary: rank by pair of ids, in an open-addressed table. */

const EMPTY = -1

export class MergeTable {
  private readonly mask: number
  private readonly lefts: Int32Array
  private readonly rights: Int32Array
  private readonly ranks: Int32Array
  /** Id of the merged token by rank. */
  private readonly results: Int32Array
  private readonly lengths = new Map<number, number>()
  /** Bytes of the longest token that merging makes. */
  readonly longest: number

  /** Throws an Error for a merge whose parts or result are not in the vocabulary. */
  constructor(
    merges: readonly (readonly [string, string])[],
    vocabulary: ReadonlyMap<string, number>,
    /** Length of what begins a token inside a word (`##`), and is not repeated where two are merged. */
    prefixLength = 0,
  ) {
    let size = 1024
    while (size < merges.length * 3) size *= 2
    this.mask = size - 1
    this.lefts = new Int32Array(size)
    this.rights = new Int32Array(size)
    this.ranks = new Int32Array(size).fill(EMPTY)
    this.results = new Int32Array(merges.length)
    let longest = 1
    merges.forEach(([left, right], rank) => {
      const leftId = vocabulary.get(left)
      const rightId = vocabulary.get(right)
      const merged = vocabulary.get(left + right.slice(prefixLength))
      if (leftId === undefined || rightId === undefined || merged === undefined) {
        throw new Error(`model.merges: ${JSON.stringify(`${left} ${right}`)} is not in model.vocab`)
      }
      this.results[rank] = merged
      // One character of a token is one byte of text.
      const length = left.length + right.length
      this.lengths.set(merged, length)
      longest = Math.max(longest, length)
      this.add(leftId, rightId, rank)
    })
    this.longest = longest
  }

  /** Rank of a pair, -1 when it is never merged. */
  rank(left: number, right: number): number {
    return this.ranks[this.slot(left, right)] ?? EMPTY
  }

  /** Id of what the pair of a rank becomes. */
  result(rank: number): number {
    return this.results[rank] ?? 0
  }

  /** Bytes of text that a token stands for. */
  byteLength(id: number): number {
    return this.lengths.get(id) ?? 1
  }

  /** Slot of the pair, or the free one where it would go. */
  private slot(left: number, right: number): number {
    const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    let slot = (hash ^ (hash >>> 15)) & this.mask
    while (this.ranks[slot] !== EMPTY && (this.lefts[slot] !== left || this.rights[slot] !== right)) {
      slot = (slot + 1) & this.mask
    }
    return slot
  }

  private add(left: number, right: number, rank: number): void {
    const slot = this.slot(left, right)
    // Listed twice, the later rank counts, as in the reference's map.
    this.lefts[slot] = left
    this.rights[slot] = right
    this.ranks[slot] = rank
  }
}
