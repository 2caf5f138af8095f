/**
 * Flags for each code point, from the tables of the reference (unicode-tables.ts): a look-up by number
 * is faster than a regular expression and the same under every version of Node.
 */
import {
  CLOSERS,
  CONTROLS,
  EXPRESSION_WORDS,
  EXTENDERS,
  IDEOGRAPHS,
  LETTERS,
  LOWERED,
  MARKS,
  NEWER,
  NUMBERS,
  PREFIXES,
  PUNCTUATION,
  SPACES,
  WORDS,
} from './unicode-tables.js'

export const CONTROL = 1
export const SPACE = 2
export const PUNCTUATION_MARK = 4
export const IDEOGRAPH = 8
export const NONSPACING_MARK = 16
export const LETTER = 32
export const NUMBER = 64
export const EXTENDER = 128
export const CLOSER = 256
/** Of Rust's own expressions, and of those in tokenizer.json. */
export const WORD = 512
export const EXPRESSION_WORD = 1024
export const PREFIX = 2048

/** Calls visit with the bounds (start, end) of each range of an encoded set. */
function eachRange(encoded: string, visit: (start: number, end: number) => void): void {
  let end = 0
  let start = -1
  for (const part of encoded.split(' ')) {
    const value = Number.parseInt(part, 36)
    if (start < 0) {
      start = end + value
    } else {
      end = start + value
      visit(start, end)
      start = -1
    }
  }
}

function buildFlags(): Uint16Array {
  const flags = new Uint16Array(0x110000)
  const sets: [string, number][] = [
    [CONTROLS, CONTROL],
    [SPACES, SPACE],
    [PUNCTUATION, PUNCTUATION_MARK],
    [IDEOGRAPHS, IDEOGRAPH],
    [MARKS, NONSPACING_MARK],
    [LETTERS, LETTER],
    [NUMBERS, NUMBER],
    [EXTENDERS, EXTENDER],
    [CLOSERS, CLOSER],
    [WORDS, WORD],
    [EXPRESSION_WORDS, EXPRESSION_WORD],
    [PREFIXES, PREFIX],
  ]
  for (const [encoded, flag] of sets) {
    eachRange(encoded, (start, end) => {
      for (let at = start; at < end; at += 1) flags[at] = (flags[at] ?? 0) | flag
    })
  }
  return flags
}

/** Flags by code point. */
export const FLAGS = buildFlags()

/** Whether the code point has any of the flags. */
export function has(codePoint: number, flags: number): boolean {
  return ((FLAGS[codePoint] ?? 0) & flags) !== 0
}

const newerRanges: [number, number][] = []
eachRange(NEWER, (start, end) => newerRanges.push([start, end]))
const newerLowered = new Map<number, string>()
{
  const parts = LOWERED.split(' ')
  for (let at = 0; at + 1 < parts.length; at += 2) {
    const lowered = String.fromCodePoint(Number.parseInt(parts[at + 1] ?? '', 16))
    newerLowered.set(Number.parseInt(parts[at] ?? '', 16), lowered)
  }
}

function isNewer(codePoint: number): boolean {
  return newerRanges.some(([start, end]) => codePoint >= start && codePoint < end)
}

/** Characters that the reference's normal forms do not know, for a regular expression's class with the flag u. */
export function newerClass(): string {
  const hex = (codePoint: number) => `\\u{${codePoint.toString(16)}}`
  return newerRanges.map(([start, end]) => `${hex(start)}-${hex(end - 1)}`).join('')
}

/** Canonical decomposition of one character, as the reference knows it. */
export function decompose(char: string): string {
  return isNewer(char.codePointAt(0) ?? 0) ? char : char.normalize('NFD')
}

/** Lower case of one character without regard to its neighbours (no final sigma), as the reference knows it. */
export function lowerCase(char: string): string {
  const codePoint = char.codePointAt(0) ?? 0
  return isNewer(codePoint) ? (newerLowered.get(codePoint) ?? char) : char.toLowerCase()
}
