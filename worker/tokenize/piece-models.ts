/**
 * The models of tokenizer.json for one piece of a pre-tokenised text, in every variant that the Rust `tokenizers` have:
 * plainer and slower than the encoders that read whole texts, and for files that those do not cover.
 */
import type { IdSink } from './id-sink.js'
import { MergeQueue } from './merge-queue.js'
import { MergeTable } from './merge-table.js'

export interface PieceModel {
  /** Appends the ids of one piece. */
  push(piece: string, sink: IdSink): void
}

const utf8 = new TextEncoder()

/** `<0x0A>` for each byte of a text, undefined where the vocabulary lacks one. */
export function byteTokens(text: string, vocabulary: ReadonlyMap<string, number>): number[] | undefined {
  const ids: number[] = []
  for (const byte of utf8.encode(text)) {
    const id = vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
    if (id === undefined) return undefined
    ids.push(id)
  }
  return ids
}

/** `WordLevel`. */
export class WholeWords implements PieceModel {
  readonly #vocabulary: ReadonlyMap<string, number>
  readonly #unknown: number

  constructor(vocabulary: ReadonlyMap<string, number>, unknown: number) {
    this.#vocabulary = vocabulary
    this.#unknown = unknown
  }

  push(piece: string, sink: IdSink): void {
    sink.push(this.#vocabulary.get(piece) ?? this.#unknown)
  }
}

export interface WordPartsOptions {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly unknownId: number
  readonly continuingPrefix: string
  readonly maxCharsPerWord: number
}

/** `WordPiece`. */
export class WordParts implements PieceModel {
  readonly #options: WordPartsOptions
  readonly #longest: number

  constructor(options: WordPartsOptions) {
    this.#options = options
    let longest = 0
    for (const token of options.vocabulary.keys()) longest = Math.max(longest, token.length)
    this.#longest = longest
  }

  push(piece: string, sink: IdSink): void {
    const { vocabulary, unknownId, continuingPrefix, maxCharsPerWord } = this.#options
    const characters = Array.from(piece)
    const ids: number[] = []
    let start = characters.length > maxCharsPerWord ? -1 : 0
    while (start >= 0 && start < characters.length) {
      let end = Math.min(characters.length, start + this.#longest)
      let id: number | undefined
      for (; end > start; end--) {
        id = vocabulary.get((start > 0 ? continuingPrefix : '') + characters.slice(start, end).join(''))
        if (id !== undefined) break
      }
      if (id === undefined) start = -1
      else {
        ids.push(id)
        start = end
      }
    }
    if (start < 0) sink.push(unknownId)
    else for (const id of ids) sink.push(id)
  }
}

export interface CharacterPairsOptions {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly merges: readonly (readonly [string, string])[]
  readonly ignoreMerges: boolean
  readonly byteFallback: boolean
  /** undefined: characters that are not in the vocabulary are left out. */
  readonly unknownId: number | undefined
  readonly fuseUnknown: boolean
  readonly continuingPrefix: string
  readonly endSuffix: string
}

const CACHED_UNITS = 16
const CACHED_PIECES = 16_384

/** `BPE` over characters. */
export class CharacterPairs implements PieceModel {
  readonly #options: CharacterPairsOptions
  readonly #merges: MergeTable
  readonly #cache = new Map<string, Int32Array>()

  constructor(options: CharacterPairsOptions) {
    this.#options = options
    this.#merges = new MergeTable(options.merges, options.vocabulary, options.continuingPrefix.length)
  }

  push(piece: string, sink: IdSink): void {
    let ids = this.#cache.get(piece)
    if (ids === undefined) {
      ids = this.#idsOf(piece)
      if (piece.length <= CACHED_UNITS) {
        if (this.#cache.size >= CACHED_PIECES) this.#cache.clear()
        this.#cache.set(piece, ids)
      }
    }
    for (const id of ids) sink.push(id)
  }

  #idsOf(piece: string): Int32Array {
    const { vocabulary, ignoreMerges } = this.#options
    const whole = ignoreMerges ? vocabulary.get(piece) : undefined
    if (whole !== undefined) return Int32Array.of(whole)
    return new MergeQueue(this.#merges).merge(Int32Array.from(this.#symbolsOf(Array.from(piece))))
  }

  /** As `BPE::merge_word`, whose order of unknown and fallen-back characters is kept too. */
  #symbolsOf(characters: readonly string[]): number[] {
    const { vocabulary, byteFallback, unknownId, fuseUnknown, continuingPrefix, endSuffix } = this.#options
    const symbols: number[] = []
    let unknownBefore = false
    for (const [i, character] of characters.entries()) {
      const isLast = i === characters.length - 1
      const text = (i > 0 ? continuingPrefix : '') + character + (isLast ? endSuffix : '')
      const id = vocabulary.get(text)
      if (id !== undefined) {
        if (unknownBefore && unknownId !== undefined) symbols.push(unknownId)
        unknownBefore = false
        symbols.push(id)
        continue
      }
      const bytes = byteFallback ? byteTokens(text, vocabulary) : undefined
      if (bytes) {
        symbols.push(...bytes)
      } else if (unknownId !== undefined) {
        if (unknownBefore && !fuseUnknown) symbols.push(unknownId)
        unknownBefore = true
      }
    }
    if (unknownBefore && unknownId !== undefined) symbols.push(unknownId)
    return symbols
  }
}
