/**
 * What BertNormalizer and BertPreTokenizer together make of one character: kept, dropped, a space, a word of its
 * own, or replaced by other characters. Worked out once a character, then looked up.
 */
import {
  CONTROL,
  decompose,
  FLAGS,
  has,
  IDEOGRAPH,
  lowerCase,
  NONSPACING_MARK,
  PUNCTUATION_MARK,
  SPACE,
} from './code-points.js'

export const KEEP = 1
export const DROP = 2
export const BREAK = 3
export const ISOLATE = 4
const REPLACE = 5

/** The settings of a BertNormalizer in tokenizer.json; strip_accents: null is already resolved to lowercase. */
export interface BertNormalizerOptions {
  readonly cleanText: boolean
  readonly handleChineseChars: boolean
  readonly stripAccents: boolean
  readonly lowercase: boolean
}

/** What BertPreTokenizer alone makes of a character. */
export function splitKind(codePoint: number): typeof KEEP | typeof BREAK | typeof ISOLATE {
  const flags = FLAGS[codePoint] ?? 0
  if ((flags & SPACE) !== 0) return BREAK
  return (flags & PUNCTUATION_MARK) !== 0 ? ISOLATE : KEEP
}

/** BertNormalizer of one character, in the reference's order: clean, space out ideographs, strip, lower. */
function normaliseChar(codePoint: number, options: BertNormalizerOptions): string {
  const char = String.fromCodePoint(codePoint)
  if (options.cleanText) {
    if (has(codePoint, CONTROL)) return ''
    if (has(codePoint, SPACE)) return ' '
  }
  let text = char
  if (options.stripAccents) {
    text = ''
    for (const part of decompose(char)) {
      if (!has(part.codePointAt(0) ?? 0, NONSPACING_MARK)) text += part
    }
  }
  if (options.lowercase) {
    let lowered = ''
    for (const part of text) lowered += lowerCase(part)
    text = lowered
  }
  return options.handleChineseChars && has(codePoint, IDEOGRAPH) ? ` ${text} ` : text
}

/** BertNormalizer of a whole text; needed where added tokens are looked for in normalised text. */
export function bertNormaliser(options: BertNormalizerOptions): (text: string) => string {
  /** What characters become, by code point; the empty entries of `unchanged` are still unknown. */
  const changed = new Map<number, string>()
  const unchanged = new Uint8Array(0x110000)
  return (text) => {
    let out = ''
    let kept = 0
    for (let at = 0; at < text.length; ) {
      const codePoint = text.codePointAt(at) ?? 0
      const end = at + (codePoint > 0xffff ? 2 : 1)
      if (unchanged[codePoint] === 0) {
        let normalised = changed.get(codePoint)
        if (normalised === undefined) {
          normalised = normaliseChar(codePoint, options)
          if (normalised === text.slice(at, end)) unchanged[codePoint] = 1
          else changed.set(codePoint, normalised)
        }
        if (unchanged[codePoint] === 0) {
          out += text.slice(kept, at) + normalised
          kept = end
        }
      }
      at = end
    }
    return kept === 0 ? text : out + text.slice(kept)
  }
}

/** The combined table for one normaliser, or for BertPreTokenizer alone (options null). */
export class BertCharacters {
  /** Kinds by code point, 0 while unknown. */
  private readonly kinds = new Uint8Array(0x110000)
  /** What a code unit is in a word where that is one unit, itself or another; 0 while unknown, and for all others. */
  readonly plain = new Uint16Array(0x10000)
  private readonly replacements = new Map<number, string>()
  private readonly options: BertNormalizerOptions | null

  constructor(options: BertNormalizerOptions | null) {
    this.options = options
  }

  kind(codePoint: number): number {
    const known = this.kinds[codePoint] ?? 0
    return known === 0 ? this.learn(codePoint) : known
  }

  /** Text that stands for a character of kind REPLACE; still to be split by BertPreTokenizer. */
  replacement(codePoint: number): string {
    return this.replacements.get(codePoint) ?? ''
  }

  private learn(codePoint: number): number {
    const kind = this.classify(codePoint)
    this.kinds[codePoint] = kind
    if (codePoint < 0x10000) this.plain[codePoint] = this.plainOf(codePoint, kind)
    return kind
  }

  private plainOf(codePoint: number, kind: number): number {
    if (kind === KEEP) return codePoint
    const replacement = kind === REPLACE ? this.replacement(codePoint) : ''
    const unit = replacement.length === 1 ? replacement.charCodeAt(0) : 0
    return splitKind(unit) === KEEP ? unit : 0
  }

  private classify(codePoint: number): number {
    if (this.options === null) return splitKind(codePoint)
    const char = String.fromCodePoint(codePoint)
    const text = normaliseChar(codePoint, this.options)
    if (text === '') return DROP
    if (text === char) return splitKind(codePoint)
    if (text === ` ${char} `) return ISOLATE
    if (text === ' ') return BREAK
    this.replacements.set(codePoint, text)
    return REPLACE
  }
}
