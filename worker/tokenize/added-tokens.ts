/**
 * Finds added tokens ("[SEP]", "<mask>") in a text, as `AddedVocabulary` of the Rust `tokenizers` does: the leftmost
 * match, the longest there; single_word, lstrip and rstrip as that crate reads them.
 */
import { has, SPACE } from './code-points.js'

/** An entry of added_tokens in tokenizer.json. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly singleWord: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
  readonly normalized: boolean
  /** One of the model's own (`[SEP]`), that texts may be read without. */
  readonly special: boolean
}

/** Where a token was found, including the white space that it takes with it. */
export interface AddedTokenMatch {
  readonly id: number
  readonly start: number
  readonly end: number
  /** Where the token itself ends: the next one may begin in the white space behind it, which then counts twice. */
  readonly bareEnd: number
}

// Word characters as Rust's regex crate defines them; JavaScript's \w is ASCII only.
const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/uy

function escapeExpression(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}

function isWordAt(text: string, index: number): boolean {
  WORD.lastIndex = index
  return WORD.test(text)
}

/** Index of the character that ends right before index. */
function charBefore(text: string, index: number): number {
  const unit = text.charCodeAt(index - 1)
  return unit >= 0xdc00 && unit < 0xe000 && index > 1 ? index - 2 : index - 1
}

export class AddedTokenMatcher {
  private readonly byContent = new Map<string, AddedToken>()
  private readonly expression: RegExp | null

  /** contentOf gives the text to look for; normalised tokens are looked for in their normalised form. */
  constructor(tokens: readonly AddedToken[], contentOf: (token: AddedToken) => string = (token) => token.content) {
    for (const token of tokens) {
      const content = contentOf(token)
      if (content !== '') this.byContent.set(content, token)
    }
    // The first alternative that matches wins, so longer ones come first.
    const contents = [...this.byContent.keys()].sort((a, b) => b.length - a.length)
    this.expression = contents.length === 0 ? null : new RegExp(contents.map(escapeExpression).join('|'), 'gu')
  }

  /**
   * The first match that starts at or after search; null when there is none.
   *
   * @param from white space before it belongs to another token
   */
  next(text: string, from: number, search = from): AddedTokenMatch | null {
    const expression = this.expression
    if (expression === null) return null
    expression.lastIndex = search
    for (let found = expression.exec(text); found !== null; found = expression.exec(text)) {
      const token = this.byContent.get(found[0])
      const start = found.index
      const bareEnd = start + found[0].length
      const split = token?.singleWord && (this.wordBefore(text, start) || isWordAt(text, bareEnd))
      if (token !== undefined && !split) {
        return {
          id: token.id,
          start: token.lstrip ? leftEdge(text, from, start) : start,
          end: token.rstrip ? rightEdge(text, bareEnd) : bareEnd,
          bareEnd,
        }
      }
    }
    return null
  }

  private wordBefore(text: string, index: number): boolean {
    return index > 0 && isWordAt(text, charBefore(text, index))
  }
}

function leftEdge(text: string, from: number, start: number): number {
  let edge = start
  while (edge > from && has(text.charCodeAt(edge - 1), SPACE)) edge -= 1
  return edge
}

function rightEdge(text: string, end: number): number {
  let edge = end
  while (edge < text.length && has(text.charCodeAt(edge), SPACE)) edge += 1
  return edge
}
