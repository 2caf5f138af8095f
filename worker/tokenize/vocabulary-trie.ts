/**
 * A trie over UTF-16 code units in one open-addressed hash table of typed arrays: walking it makes no strings, so
 * tokenising leaves no garbage and needs no cache of words.
 *
 * Code units serve as well as characters here: tokens and texts hold no lone surrogates, so a token that begins at a
 * character ends at one.
 */
export class VocabularyTrie {
  private readonly mask: number
  private readonly parents: Int32Array
  private readonly units: Uint16Array
  private readonly children: Int32Array
  /** Id of the token that ends at a node, -1 for none. */
  readonly ids: Int32Array
  private nodes = 1

  constructor(tokens: Iterable<readonly [string, number]>, totalUnits: number) {
    let size = 1024
    while (size < totalUnits * 2) size *= 2
    this.mask = size - 1
    this.parents = new Int32Array(size)
    this.units = new Uint16Array(size)
    this.children = new Int32Array(size)
    this.ids = new Int32Array(totalUnits + 1).fill(-1)
    for (const [token, id] of tokens) {
      let node = 0
      for (let at = 0; at < token.length; at += 1) node = this.addChild(node, token.charCodeAt(at))
      this.ids[node] = id
    }
  }

  /** The node reached from node by a code unit, -1 when there is none. The root is 0. */
  child(node: number, unit: number): number {
    let slot = this.slot(node, unit)
    for (;;) {
      const child = this.children[slot] ?? 0
      if (child === 0) return -1
      if (this.parents[slot] === node && this.units[slot] === unit) return child
      slot = (slot + 1) & this.mask
    }
  }

  private slot(node: number, unit: number): number {
    const hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b)
    return (hash ^ (hash >>> 15)) & this.mask
  }

  private addChild(node: number, unit: number): number {
    const known = this.child(node, unit)
    if (known >= 0) return known
    let slot = this.slot(node, unit)
    while (this.children[slot] !== 0) slot = (slot + 1) & this.mask
    const child = this.nodes
    this.nodes += 1
    this.parents[slot] = node
    this.units[slot] = unit
    this.children[slot] = child
    return child
  }

  /** Builds a trie from a map of token to id. */
  static of(vocabulary: ReadonlyMap<string, number>): VocabularyTrie {
    let totalUnits = 0
    for (const token of vocabulary.keys()) totalUnits += token.length
    return new VocabularyTrie(vocabulary, totalUnits)
  }
}
