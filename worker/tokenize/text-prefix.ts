/**
 * Where a long text may be cut so that the tokens of its beginning are the first tokens of the whole. Truncation never
 * needs more tokens than the budget, so a text of 10 MB need not be tokenised to its end.
 *
 * A firm cut is before a single space between two visible characters: every pre-tokeniser here ends a word there, the
 * space composes with nothing before it, and no white space is left to be counted or stripped at the edge.
 * An open cut is between two characters that no normaliser changes because of their neighbours (ASCII letters and
 * digits, kana, ideographs, Hangul syllables, Thai consonants): the word may go on, so its last tokens are not certain.
 * Neither is taken between two characters that stand side by side in an added token, which could span the cut.
 */
import type { AddedToken } from './added-tokens.js'

export interface Prefix {
  readonly end: number
  /** The last word may go on behind end. */
  readonly open: boolean
}

const FIRM = /[\p{L}\p{N}\p{P}\p{S}](?= [\p{L}\p{N}])/gu
const INERT = '0-9A-Za-z\\u0E01-\\u0E2E\\u3041-\\u3096\\u30A1-\\u30FA\\u3400-\\u4DBF\\u4E00-\\u9FFF\\uAC00-\\uD7A3'
const OPEN = new RegExp(`[${INERT}](?=[${INERT}])`, 'gu')

/** UTF-16 code units in which a cut of either kind is looked for. */
const FIRM_SEARCH = 1024
const OPEN_SEARCH = 4096

export class PrefixCutter {
  /** Last code units of tokens that match only as a word of their own, in lower case: an open cut hides what follows. */
  private readonly wordEnds = new Set<string>()
  /** Neighbouring code units in added tokens, in lower case. */
  private readonly neighbours = new Set<string>()

  constructor(added: readonly AddedToken[]) {
    for (const { content, singleWord } of added) {
      for (const form of [content.toLowerCase(), content.normalize('NFKC').toLowerCase()]) {
        if (singleWord) this.wordEnds.add(form.slice(-1))
        for (let at = 0; at + 1 < form.length; at += 1) this.neighbours.add(form.slice(at, at + 2))
      }
    }
  }

  /** A prefix of at least size UTF-16 code units that ends at a safe cut; the whole text when none is near. */
  cut(text: string, size: number): Prefix {
    if (text.length - size > OPEN_SEARCH) {
      const firm = this.search(FIRM, text, size, FIRM_SEARCH)
      if (firm > 0) return { end: firm, open: false }
      const open = this.search(OPEN, text, size, OPEN_SEARCH)
      if (open > 0) return { end: open, open: true }
    }
    return { end: text.length, open: false }
  }

  private search(expression: RegExp, text: string, from: number, length: number): number {
    const window = text.slice(from, from + length)
    for (const found of window.matchAll(expression)) {
      const end = found.index + found[0].length
      const pair = window.slice(end - 1, end + 1).toLowerCase()
      if (!this.neighbours.has(pair) && !this.wordEnds.has(pair.slice(0, 1))) return from + end
    }
    return 0
  }
}
