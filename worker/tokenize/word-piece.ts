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

export class WordPieceEncoder implements PieceEncoder {
  private readonly trie: VocabularyTrie
  private readonly continuing: number
  private readonly options: WordPieceOptions
  private readonly characters: BertCharacters
  private readonly word: Uint16Array
  private units = 0
  private chars = 0

  constructor(options: WordPieceOptions) {
    this.options = options
    this.characters = options.characters
    this.trie = VocabularyTrie.of(options.vocabulary)
    this.word = new Uint16Array(options.maxCharsPerWord * 2)
    let node = 0
    for (let at = 0; at < options.continuingPrefix.length && node >= 0; at += 1) {
      node = this.trie.child(node, options.continuingPrefix.charCodeAt(at))
    }
    this.continuing = node
  }

  encode(piece: string, _firstUnits: number, open: boolean, sink: IdSink): void {
    const characters = this.characters
    this.units = 0
    this.chars = 0
    for (let at = 0; at < piece.length; at += 1) {
      let codePoint = piece.charCodeAt(at)
      if (codePoint >= 0xd800 && codePoint < 0xdc00) {
        codePoint = piece.codePointAt(at) ?? codePoint
        at += 1
      }
      const kind = characters.kind(codePoint)
      if (kind === KEEP) this.keep(codePoint)
      else if (kind === BREAK) this.endWord(sink)
      else if (kind === ISOLATE) this.isolate(codePoint, sink)
      else if (kind !== DROP) this.replace(characters.replacement(codePoint), sink)
      if (sink.full) return
    }
    if (!open) this.endWord(sink)
  }

  private keep(codePoint: number): void {
    this.chars += 1
    if (this.chars > this.options.maxCharsPerWord) return
    if (codePoint < 0x10000) {
      this.word[this.units] = codePoint
      this.units += 1
    } else {
      this.word[this.units] = 0xd800 + ((codePoint - 0x10000) >> 10)
      this.word[this.units + 1] = 0xdc00 + ((codePoint - 0x10000) & 0x3ff)
      this.units += 2
    }
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
    const units = this.units
    if (units === 0) return
    const tooLong = this.chars > this.options.maxCharsPerWord
    this.units = 0
    this.chars = 0
    const before = sink.length
    const { word, trie } = this
    let start = tooLong ? -1 : 0
    while (start >= 0 && start < units) {
      let node = start === 0 ? 0 : this.continuing
      let found = -1
      let end = start
      for (let at = start; node >= 0 && at < units; at += 1) {
        node = trie.child(node, word[at] ?? 0)
        const id = node < 0 ? -1 : (trie.ids[node] ?? -1)
        if (id >= 0) {
          found = id
          end = at + 1
        }
      }
      if (found < 0) {
        start = -1
      } else {
        // A full sink drops what follows, but only after the whole word is known to be spelled out.
        sink.push(found)
        start = end
      }
    }
    if (start < 0) {
      sink.cut(before)
      sink.push(this.options.unknownId)
    }
  }
}
