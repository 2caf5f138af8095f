/**
 * Unigram over Metaspace words, as `Unigram::encode_optimized` of the Rust `tokenizers`: the best path by summed log
 * probabilities, neighbouring unknown characters as one token.
 */
import { has, SPACE } from './code-points.js'
import type { IdSink } from './id-sink.js'
import { byteTokens, type PieceModel } from './piece-models.js'
import type { PieceEncoder } from './text-pipeline.js'
import { VocabularyTrie } from './vocabulary-trie.js'

export interface UnigramOptions {
  /** Tokens with their scores; the index is the id. */
  readonly vocabulary: readonly (readonly [token: string, score: number])[]
  readonly unknownId: number
  /** Characters without a token become those of their bytes (`<0xE2>`), where all of them are there. */
  readonly byteFallback?: boolean
  /** What stands for a space and begins a word: '▁'. */
  readonly replacement: string
  readonly prepend: 'always' | 'first' | 'never'
  /** Words are split at white space first, which is then dropped. */
  readonly splitWhitespace: boolean
}

/** How much worse than the worst token an unknown character is (kUnkPenalty of sentencepiece). */
const UNKNOWN_PENALTY = 10

/** Code units of one word after which the sure part of its path is given out, so that a long word needs no more room. */
const CHUNK = 4096

/**
 * Where paths do not meet for so long (a run of one character whose tokens have several lengths), the best one so far
 * is taken. Only there, in a word of over 65,536 code units, tokens may differ from the reference: it would have to be
 * read to its end to know the first of them.
 */
const UNSURE_UNITS = 65_536

export class UnigramEncoder implements PieceEncoder, PieceModel {
  private readonly options: UnigramOptions
  private readonly bytes: ReadonlyMap<string, number>
  private readonly trie: VocabularyTrie
  private readonly scores: Float64Array
  private readonly unknownScore: number
  private readonly longest: number
  // The path table of the current word: entry i is for position base + i.
  private best = new Float64Array(0)
  private from = new Int32Array(0)
  private ids = new Int32Array(0)

  constructor(options: UnigramOptions) {
    this.options = options
    const { vocabulary } = options
    const ids = new Map(vocabulary.map(([token], id) => [token, id]))
    this.bytes = options.byteFallback ? ids : new Map()
    this.trie = VocabularyTrie.of(ids)
    this.scores = Float64Array.from(vocabulary, ([, score]) => score)
    this.unknownScore =
      this.scores.reduce((low, score) => Math.min(low, score), Number.POSITIVE_INFINITY) - UNKNOWN_PENALTY
    this.longest = vocabulary.reduce((length, [token]) => Math.max(length, token.length), 2)
    this.grow(CHUNK * 2 + this.longest)
  }

  encode(piece: string, firstUnits: number, open: boolean, sink: IdSink): void {
    if (!this.options.splitWhitespace) {
      this.words(piece.replaceAll(' ', this.options.replacement), firstUnits > 0, open, sink)
      return
    }
    let start = 0
    for (let at = 0; at <= piece.length && !sink.full; at += 1) {
      if (at < piece.length && !has(piece.charCodeAt(at), SPACE)) continue
      if (at > start) this.words(piece.slice(start, at), firstUnits > start, open && at === piece.length, sink)
      start = at + 1
    }
  }

  /** One piece of a text that is pre-tokenised already. */
  push(piece: string, sink: IdSink): void {
    this.word(piece, 0, piece.length, false, sink)
  }

  /** Metaspace: words begin at each replacement character, one of which may be put in front. */
  private words(source: string, first: boolean, open: boolean, sink: IdSink): void {
    const { replacement, prepend } = this.options
    const wanted = prepend === 'always' || (prepend === 'first' && first)
    const text = wanted && !source.startsWith(replacement) ? replacement + source : source
    for (let start = 0; start < text.length && !sink.full; ) {
      const next = text.indexOf(replacement, start + 1)
      const end = next < 0 ? text.length : next
      this.word(text, start, end, open && next < 0, sink)
      start = end
    }
  }

  private word(text: string, start: number, end: number, open: boolean, sink: IdSink): void {
    const { trie, scores } = this
    const { unknownId } = this.options
    let { best, from, ids } = this
    let base = start
    let emitEnd = start + CHUNK
    let unknownBefore = false
    let reached = start
    best[0] = 0
    for (let at = start; at < end; ) {
      if (at >= emitEnd) {
        const sure = at - base > UNSURE_UNITS ? at : this.meetingPoint(base, at, reached)
        if (sure > base) {
          unknownBefore = this.emit(text, base, sure, unknownBefore, sink)
          if (sink.full) return
          const shift = sure - base
          best.copyWithin(0, shift, reached - base + 1)
          from.copyWithin(0, shift, reached - base + 1)
          ids.copyWithin(0, shift, reached - base + 1)
          base = sure
        }
        emitEnd = at + CHUNK
        this.grow(emitEnd - base + this.longest + 2)
        best = this.best
        from = this.from
        ids = this.ids
      }
      const unit = text.charCodeAt(at)
      const charEnd = at + (unit >= 0xd800 && unit < 0xdc00 ? 2 : 1)
      const score = best[at - base] ?? 0
      let single = false
      let node = trie.root
      for (let next = at; next < end; ) {
        node = trie.child(node, text.charCodeAt(next))
        if (node < 0) break
        next += 1
        const id = trie.id(node)
        if (id < 0) continue
        if (next === charEnd) single = true
        const candidate = (scores[id] ?? 0) + score
        const target = next - base
        for (; reached < next; reached += 1) from[reached + 1 - base] = -1
        if ((from[target] ?? -1) < 0 || candidate > (best[target] ?? 0)) {
          best[target] = candidate
          from[target] = at
          ids[target] = id
        }
      }
      if (!single) {
        const candidate = this.unknownScore + score
        const target = charEnd - base
        for (; reached < charEnd; reached += 1) from[reached + 1 - base] = -1
        if ((from[target] ?? -1) < 0 || candidate > (best[target] ?? 0)) {
          best[target] = candidate
          from[target] = at
          ids[target] = unknownId
        }
      }
      at = charEnd
    }
    // A token that begins within reach of an open end may end behind it.
    const sure = open ? this.meetingPoint(base, Math.max(base, end - this.longest), reached) : end
    this.emit(text, base, sure, unknownBefore, sink)
  }

  /** The last position that every path to where the word may go on from (at or behind `at`) has in common. */
  private meetingPoint(base: number, at: number, reached: number): number {
    const ends = new Set<number>()
    for (let position = at; position <= reached; position += 1) {
      if (position === base || (this.from[position - base] ?? -1) >= 0) ends.add(position)
    }
    for (;;) {
      let last = -1
      for (const position of ends) last = Math.max(last, position)
      if (ends.size < 2 || last <= base) return ends.size < 2 ? last : base
      ends.delete(last)
      ends.add(this.from[last - base] ?? base)
    }
  }

  /** Pushes the path from base to end; gives whether it ends in an unknown token. */
  private emit(text: string, base: number, end: number, unknownBefore: boolean, sink: IdSink): boolean {
    const { unknownId, byteFallback } = this.options
    const path: number[] = []
    const starts: number[] = []
    for (let position = end; position > base; position = this.from[position - base] ?? base) {
      path.push(this.ids[position - base] ?? unknownId)
      starts.push(this.from[position - base] ?? base)
    }
    let unknown = unknownBefore
    for (let index = path.length - 1; index >= 0; index -= 1) {
      const id = path[index] ?? unknownId
      if (id === unknownId && byteFallback) {
        // Neighbours are one unknown token, whose bytes have to be there all.
        const start = starts[index] ?? base
        while (index > 0 && path[index - 1] === unknownId) index -= 1
        const spelled = byteTokens(text.slice(start, index > 0 ? starts[index - 1] : end), this.bytes)
        for (const byte of spelled ?? (unknown ? [] : [unknownId])) sink.push(byte)
        unknown = spelled === undefined
        continue
      }
      if (id !== unknownId || !unknown) sink.push(id)
      unknown = id === unknownId
    }
    return unknown
  }

  private grow(size: number): void {
    if (this.best.length >= size) return
    const grow = <T extends Float64Array | Int32Array>(grown: T, old: T): T => {
      grown.set(old)
      return grown
    }
    this.best = grow(new Float64Array(size), this.best)
    this.from = grow(new Int32Array(size), this.from)
    this.ids = grow(new Int32Array(size), this.ids)
  }
}
