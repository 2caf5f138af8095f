/**
 * Words of the ByteLevel pre-tokeniser (GPT-2): the matches of
 * `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, found by hand with the reference's
 * classes of characters, since those of JavaScript change with the version of Node.
 */
import { FLAGS, LETTER, NUMBER, SPACE } from './code-points.js'

const CLASSES = LETTER | NUMBER | SPACE
const APOSTROPHE = 0x27
const BLANK = 0x20

/** Letter, number, white space (of which a character has at most one), or 0 for anything else. */
function classAt(text: string, at: number): number {
  return (FLAGS[text.codePointAt(at) ?? 0] ?? 0) & CLASSES
}

function widthAt(text: string, at: number): number {
  const unit = text.charCodeAt(at)
  return unit >= 0xd800 && unit < 0xdc00 ? 2 : 1
}

/** Length of 's, 't, 're, 've, 'm, 'll or 'd at an apostrophe, 0 when there is none. */
function contraction(text: string, at: number): number {
  switch (text[at + 1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2
    case 'r':
    case 'v':
      return text[at + 2] === 'e' ? 3 : 0
    case 'l':
      return text[at + 2] === 'l' ? 3 : 0
    default:
      return 0
  }
}

/** Index behind the word that starts at `at`. */
export function wordEnd(text: string, at: number): number {
  const unit = text.charCodeAt(at)
  if (unit === APOSTROPHE) {
    const length = contraction(text, at)
    if (length > 0) return at + length
  }
  const start = unit === BLANK ? at + 1 : at
  const kind = start < text.length ? classAt(text, start) : SPACE
  let end = start
  if (kind !== SPACE) {
    while (end < text.length && classAt(text, end) === kind) end += widthAt(text, end)
    return end
  }
  end = at
  while (end < text.length && classAt(text, end) === SPACE) end += 1
  // The last white space before a word is left to it, unless it is the only one.
  return end < text.length && end - at > 1 ? end - 1 : end
}

/** Characters that stand for the 256 bytes in the vocabulary: printable ones for themselves, others from U+0100 on. */
export function byteCharacters(): string[] {
  const characters: string[] = []
  let other = 0x100
  for (let byte = 0; byte < 256; byte += 1) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    characters.push(String.fromCharCode(printable ? byte : other))
    if (!printable) other += 1
  }
  return characters
}
