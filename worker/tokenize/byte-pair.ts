/**
 * Byte-level BPE, as `BPE::merge_word` of the Rust `tokenizers`: of all neighbouring pairs the one with the lowest rank
 * is merged first, from the left, until none is known.
 */
import { byteCharacters, wordEnd } from './byte-level.js'
import type { IdSink } from './id-sink.js'
import { MergeQueue } from './merge-queue.js'
import { MergeTable } from './merge-table.js'
import type { PieceEncoder } from './text-pipeline.js'

export interface BytePairOptions {
  readonly vocabulary: ReadonlyMap<string, number>
  /** Pairs of tokens in the order of their rank. */
  readonly merges: readonly (readonly [string, string])[]
  /** A word that is a token as a whole is taken without merging. */
  readonly ignoreMerges: boolean
  readonly addPrefixSpace: boolean
}

/** Words up to this length are remembered; longer ones seldom come back, and V8 would keep the whole text for them. */
const CACHED_UNITS = 12
const CACHED_WORDS = 32_768

/**
 * Bytes behind the last one that can matter, for words so long that they are not read to their end. How far a merge
 * can depend on what follows is bounded by the rules (Berglund and van der Merwe, Formalizing BPE Tokenization, 2023);
 * in practice a few tokens are enough.
 */
const LOOKAHEAD_BYTES = 16_384

/** Up to this many bytes, looking through all pairs for each merge is faster than a queue. */
const SHORT_BYTES = 64

const utf8 = new TextEncoder()

export class BytePairEncoder implements PieceEncoder {
  private readonly options: BytePairOptions
  private readonly byteIds: Int32Array
  private readonly merges: MergeTable
  private readonly longestToken: number
  private readonly cache = new Map<string, Int32Array>()
  private readonly bytes = new Uint8Array(SHORT_BYTES)
  private readonly symbols = new Int32Array(SHORT_BYTES)

  /** Whether the vocabulary has every byte. */
  static covers(vocabulary: ReadonlyMap<string, number>): boolean {
    return byteCharacters().every((character) => vocabulary.has(character))
  }

  /** Throws an Error when the vocabulary lacks a byte or a merge does not lead into it. */
  constructor(options: BytePairOptions) {
    this.options = options
    const { vocabulary } = options
    this.byteIds = Int32Array.from(byteCharacters(), (character, byte) => {
      const id = vocabulary.get(character)
      if (id === undefined) throw new Error(`model.vocab lacks the byte ${byte}`)
      return id
    })
    this.merges = new MergeTable(options.merges, vocabulary)
    this.longestToken = this.merges.longest
  }

  encode(piece: string, _firstUnits: number, open: boolean, sink: IdSink): void {
    const text = this.options.addPrefixSpace && !piece.startsWith(' ') ? ` ${piece}` : piece
    for (let at = 0; at < text.length && !sink.full; ) {
      const end = wordEnd(text, at)
      if (open && end === text.length) {
        this.longWord(text.slice(at), true, sink)
      } else if (end - at <= CACHED_UNITS) {
        this.cachedWord(text.slice(at, end), sink)
      } else if ((end - at) * 3 <= SHORT_BYTES) {
        for (const id of this.wordIds(text.slice(at, end))) sink.push(id)
      } else {
        this.longWord(text.slice(at, end), false, sink)
      }
      at = end
    }
  }

  private cachedWord(word: string, sink: IdSink): void {
    let ids = this.cache.get(word)
    if (ids === undefined) {
      ids = this.wordIds(word)
      if (this.cache.size >= CACHED_WORDS) this.cache.clear()
      this.cache.set(word, ids)
    }
    for (const id of ids) sink.push(id)
  }

  /** A word of at most a third of SHORT_BYTES code units. */
  private wordIds(word: string): Int32Array {
    const whole = this.options.ignoreMerges ? this.wholeWord(word) : undefined
    if (whole !== undefined) return Int32Array.of(whole)
    return this.mergeShort(utf8.encodeInto(word, this.bytes).written)
  }

  /** A word that is looked at only as far as the sink may need it; with open set its end is not certain. */
  private longWord(word: string, open: boolean, sink: IdSink): void {
    const needed = sink.room * this.longestToken + LOOKAHEAD_BYTES
    const cut = open || word.length > needed
    if (!cut && this.options.ignoreMerges) {
      const whole = this.wholeWord(word)
      if (whole !== undefined) {
        sink.push(whole)
        return
      }
    }
    // A character cut in two becomes U+FFFD, but far behind what is used.
    const bytes = utf8.encode(word.length > needed ? word.slice(0, needed) : word)
    let sure = cut ? bytes.length - LOOKAHEAD_BYTES : bytes.length
    for (const id of new MergeQueue(this.merges).merge(this.byteSymbols(bytes))) {
      sure -= this.merges.byteLength(id)
      if (sure < 0 || sink.full) return
      sink.push(id)
    }
  }

  private wholeWord(word: string): number | undefined {
    const characters = byteCharacters()
    return this.options.vocabulary.get(Array.from(utf8.encode(word), (byte) => characters[byte] ?? '').join(''))
  }

  private byteSymbols(bytes: Uint8Array): Int32Array {
    return Int32Array.from(bytes, (byte) => this.byteIds[byte] ?? 0)
  }

  private mergeShort(count: number): Int32Array {
    const { symbols, merges } = this
    for (let at = 0; at < count; at += 1) symbols[at] = this.byteIds[this.bytes[at] ?? 0] ?? 0
    let length = count
    for (;;) {
      let bestRank = Number.POSITIVE_INFINITY
      let best = -1
      for (let at = 0; at + 1 < length; at += 1) {
        const rank = merges.rank(symbols[at] ?? 0, symbols[at + 1] ?? 0)
        if (rank >= 0 && rank < bestRank) {
          bestRank = rank
          best = at
        }
      }
      if (best < 0) return symbols.slice(0, length)
      symbols[best] = merges.result(bestRank)
      symbols.copyWithin(best + 1, best + 2, length)
      length -= 1
    }
  }
}
