/**
 * BERT's WordPiece in one pass: normalises, splits into words and looks the pieces up while it scans the text once.
 */
import { type BertCharacters, BREAK, DROP, ISOLATE, KEEP, splitKind } from './bert-characters.js'
import type { IdSink } from './id-sink.js'
import type { PieceEncoder } from './text-pipeline.js'
import { VocabularyTrie } from './vocabulary-trie.js'

export interface WordPieceOptions {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly unknownId: number
  /** What a piece that goes on a word starts with: '##'. */
  readonly continuingPrefix: string
  /** A word of more characters is unknown as a whole. */
  readonly maxCharsPerWord: number
  readonly characters: BertCharacters
}

/** Code units of a text that are looked at together. */
const CHUNK = 4096

export class WordPieceEncoder implements PieceEncoder {
  private readonly trie: VocabularyTrie
  private readonly continuing: number
  private readonly options: WordPieceOptions
  private readonly characters: BertCharacters
  /** Of the text, as its bytes and as its code units: reading a string unit by unit takes longer. */
  private readonly bytes = Buffer.alloc(2 * CHUNK)
  private readonly text = new Uint16Array(this.bytes.buffer, this.bytes.byteOffset, CHUNK)
  private readonly word: Uint16Array
  /** Of the word so far: its code units, and how many of its characters take two. */
  private units = 0
  private pairs = 0
  /** Where the word so far leads in the vocabulary, -1: nowhere. */
  private node: number

  constructor(options: WordPieceOptions) {
    this.options = options
    this.characters = options.characters
    this.trie = VocabularyTrie.of(options.vocabulary)
    this.word = new Uint16Array(options.maxCharsPerWord * 2)
    this.node = this.trie.root
    let node = this.trie.root
    for (let at = 0; at < options.continuingPrefix.length && node >= 0; at += 1) {
      node = this.trie.child(node, options.continuingPrefix.charCodeAt(at))
    }
    this.continuing = node
  }

  encode(piece: string, _firstUnits: number, open: boolean, sink: IdSink): void {
    this.begin()
    for (let at = 0; at < piece.length && !sink.full; ) at = this.scan(piece, at, sink)
    if (!open && !sink.full) this.endWord(sink)
  }

  /** @returns where the next chunk begins */
  private scan(piece: string, from: number, sink: IdSink): number {
    const { text, word, trie, characters } = this
    const { plain } = characters
    const end = Math.min(piece.length, from + CHUNK)
    this.bytes.write(piece.slice(from, end), 'utf16le')
    let { units, node } = this
    let at = from
    while (at < end) {
      const unit = text[at - from] ?? 0
      at += 1
      const kept = plain[unit] ?? 0
      if (kept !== 0) {
        // Nearly all characters: the word goes on, and so does the way through the vocabulary.
        if (units < word.length) word[units] = kept
        units += 1
        if (node >= 0) node = trie.child(node, kept)
        continue
      }
      this.units = units
      this.node = node
      let codePoint = unit
      if (unit >= 0xd800 && unit < 0xdc00) {
        codePoint = piece.codePointAt(at - 1) ?? unit
        at += 1
      }
      const kind = characters.kind(codePoint)
      if (kind === KEEP) this.keep(codePoint)
      else if (kind === BREAK) this.endWord(sink)
      else if (kind === ISOLATE) this.isolate(codePoint, sink)
      else if (kind !== DROP) this.replace(characters.replacement(codePoint), sink)
      if (sink.full) return at
      units = this.units
      node = this.node
    }
    this.units = units
    this.node = node
    return at
  }

  private begin(): void {
    this.units = 0
    this.pairs = 0
    this.node = this.trie.root
  }

  private keep(codePoint: number): void {
    if (codePoint < 0x10000) {
      this.keepUnit(codePoint)
      return
    }
    this.pairs += 1
    this.keepUnit(0xd800 + ((codePoint - 0x10000) >> 10))
    this.keepUnit(0xdc00 + ((codePoint - 0x10000) & 0x3ff))
  }

  private keepUnit(unit: number): void {
    if (this.units < this.word.length) this.word[this.units] = unit
    this.units += 1
    if (this.node >= 0) this.node = this.trie.child(this.node, unit)
  }

  private isolate(codePoint: number, sink: IdSink): void {
    this.endWord(sink)
    this.keep(codePoint)
    this.endWord(sink)
  }

  private replace(text: string, sink: IdSink): void {
    for (let at = 0; at < text.length; at += 1) {
      const codePoint = text.codePointAt(at) ?? 0
      if (codePoint > 0xffff) at += 1
      const kind = splitKind(codePoint)
      if (kind === KEEP) this.keep(codePoint)
      else if (kind === BREAK) this.endWord(sink)
      else this.isolate(codePoint, sink)
    }
  }

  /** Longest piece first, from the left; a word that cannot be spelled out is one unknown token. */
  private endWord(sink: IdSink): void {
    const { units, pairs, node } = this
    if (units === 0) return
    this.begin()
    const tooLong = units - pairs > this.options.maxCharsPerWord
    const whole = tooLong || node < 0 ? -1 : this.trie.id(node)
    if (whole >= 0) sink.push(whole)
    else if (tooLong) sink.push(this.options.unknownId)
    else this.spell(units, sink)
  }

  private spell(units: number, sink: IdSink): void {
    const before = sink.length
    const { word, trie } = this
    for (let start = 0; start < units; ) {
      let node = start === 0 ? trie.root : this.continuing
      let found = -1
      let end = start
      for (let at = start; node >= 0 && at < units; at += 1) {
        node = trie.child(node, word[at] ?? 0)
        const id = node < 0 ? -1 : trie.id(node)
        if (id >= 0) {
          found = id
          end = at + 1
        }
      }
      if (found < 0) {
        sink.cut(before)
        sink.push(this.options.unknownId)
        return
      }
      // A full sink drops what follows, but only after the whole word is known to be spelled out.
      sink.push(found)
      start = end
    }
  }
}
