/**
 * A trie over UTF-16 code units in one open-addressed hash table: walking it makes no strings, so tokenising leaves no
 * garbage and needs no cache of words. What a step reads lies side by side, and so comes with one look at memory.
 *
 * Code units serve as well as characters here: tokens and texts hold no lone surrogates, so a token that begins at a
 * character ends at one.
 */

/** A cell: the node that a child hangs on, the code unit that leads to it, the id of the token that ends there; one is spare. */
const CELL_SHIFT = 2
const FREE = -1

export class VocabularyTrie {
  /** The node that every token begins at. A node is the number of its cell; the root's lies behind those of the table. */
  readonly root: number
  private readonly mask: number
  private readonly cells: Int32Array

  constructor(tokens: Iterable<readonly [string, number]>, totalUnits: number) {
    // Tokens share their beginnings, so there are fewer nodes than code units; a fifth is free even if they share none.
    let size = 1024
    while (size < totalUnits * 1.25) size *= 2
    this.mask = size - 1
    this.root = size
    this.cells = new Int32Array((size + 1) << CELL_SHIFT).fill(FREE)
    for (const [token, id] of tokens) {
      let node = this.root
      for (let at = 0; at < token.length; at += 1) node = this.addChild(node, token.charCodeAt(at))
      this.cells[(node << CELL_SHIFT) + 2] = id
    }
  }

  /** The node reached from node by a code unit, -1 when there is none. */
  child(node: number, unit: number): number {
    const { cells, mask } = this
    for (let slot = this.slot(node, unit); ; slot = (slot + 1) & mask) {
      const at = slot << CELL_SHIFT
      const parent = cells[at]
      if (parent === node && cells[at + 1] === unit) return slot
      if (parent === FREE) return -1
    }
  }

  /** Id of the token that ends at a node, -1 for none. */
  id(node: number): number {
    return this.cells[(node << CELL_SHIFT) + 2] ?? -1
  }

  private addChild(node: number, unit: number): number {
    const known = this.child(node, unit)
    if (known >= 0) return known
    const { cells, mask } = this
    let slot = this.slot(node, unit)
    while (cells[slot << CELL_SHIFT] !== FREE) slot = (slot + 1) & mask
    cells[slot << CELL_SHIFT] = node
    cells[(slot << CELL_SHIFT) + 1] = unit
    return slot
  }

  private slot(node: number, unit: number): number {
    const hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b)
    return (hash ^ (hash >>> 15)) & this.mask
  }

  /** Builds a trie from a map of token to id. */
  static of(vocabulary: ReadonlyMap<string, number>): VocabularyTrie {
    let totalUnits = 0
    for (const token of vocabulary.keys()) totalUnits += token.length
    return new VocabularyTrie(vocabulary, totalUnits)
  }
}
