/**
 * The common frame of every tokeniser, in the order of the Rust `tokenizers`: added tokens out of the raw text,
 * normaliser, added tokens out of the normalised text, then words to ids. It stops once enough tokens are known.
 */
import { type AddedToken, AddedTokenMatcher } from './added-tokens.js'
import { IdSink } from './id-sink.js'
import { PrefixCutter } from './text-prefix.js'

export interface PieceEncoder {
  /**
   * Appends the ids of a piece of normalised text without added tokens; may stop once the sink is full.
   *
   * @param firstUnits how much of the piece the text's first character became
   * @param open the last word of the piece may go on: append only tokens that cannot change if it does
   */
  encode(piece: string, firstUnits: number, open: boolean, sink: IdSink): void
}

export interface TextPipelineParts {
  readonly addedTokens: readonly AddedToken[]
  /** null where the piece encoder reads raw text. */
  readonly normalise: ((text: string) => string) | null
  readonly pieces: PieceEncoder
  /** Texts are read to their end: where a beginning alone may become other tokens. */
  readonly readsAll?: boolean
}

/** Code units per token that are tried at first: nearly every text of more has enough tokens in its beginning. */
const UNITS_PER_TOKEN = 8
const GROWTH = 4

export class TextPipeline {
  private readonly raw: AddedTokenMatcher
  private readonly normalised: AddedTokenMatcher
  private readonly normalise: ((text: string) => string) | null
  private readonly pieces: PieceEncoder
  private readonly cutter: PrefixCutter | null
  private readonly sink = new IdSink()

  constructor({ addedTokens, normalise, pieces, readsAll }: TextPipelineParts) {
    this.normalise = normalise
    this.pieces = pieces
    this.raw = new AddedTokenMatcher(addedTokens.filter((token) => !token.normalized))
    this.normalised = new AddedTokenMatcher(
      addedTokens.filter((token) => token.normalized),
      (token) => (normalise === null ? token.content : normalise(token.content)),
    )
    this.cutter = readsAll ? null : new PrefixCutter(addedTokens)
  }

  /** The first maxTokens ids of the text, and whether those are all. */
  encode(text: string, maxTokens: number): { ids: Int32Array; complete: boolean } {
    const { sink } = this
    for (let size = (maxTokens + 16) * UNITS_PER_TOKEN; ; size *= GROWTH) {
      const { end, open } = this.cutter?.cut(text, size) ?? { end: text.length, open: false }
      // One more than asked for shows whether there are more.
      sink.reset(maxTokens + 1)
      this.run(end === text.length ? text : text.slice(0, end), open, sink)
      if (sink.full || end === text.length) return { ids: sink.copy(maxTokens), complete: sink.length <= maxTokens }
    }
  }

  private run(source: string, open: boolean, sink: IdSink): void {
    // Python refuses lone surrogates; here they become U+FFFD as they do on every way into UTF-8.
    const text = source.isWellFormed() ? source : source.toWellFormed()
    for (let at = 0, search = 0; Math.min(at, search) < text.length && !sink.full; ) {
      const token = this.raw.next(text, at, search)
      const end = token?.start ?? text.length
      if (end > at) this.segment(text.slice(at, end), at === 0, open && token === null, sink)
      if (token === null) return
      sink.push(token.id)
      at = token.end
      search = token.bareEnd
    }
  }

  /**
   * How much of the normalised text its first character becomes: pieces that begin there count as beginning the text, and
   * where nothing is left of it, none does.
   */
  private firstUnits(source: string): number {
    const [character = ''] = source
    // With a letter behind it, lest it be stripped as the end of a text.
    return this.normalise === null ? character.length : Math.max(0, this.normalise(`${character}a`).length - 1)
  }

  private segment(source: string, first: boolean, open: boolean, sink: IdSink): void {
    const text = this.normalise === null ? source : this.normalise(source)
    const firstUnits = first ? this.firstUnits(source) : 0
    for (let at = 0, search = 0; Math.min(at, search) < text.length && !sink.full; ) {
      const token = this.normalised.next(text, at, search)
      const end = token?.start ?? text.length
      if (end > at) {
        this.pieces.encode(
          at === 0 && token === null ? text : text.slice(at, end),
          Math.max(0, firstUnits - at),
          open && token === null,
          sink,
        )
      }
      if (token === null) return
      sink.push(token.id)
      at = token.end
      search = token.bareEnd
    }
  }
}
