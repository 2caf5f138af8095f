/**
 * Patterns of tokenizer.json, which are Oniguruma's, as JavaScript's: classes of characters as the reference knows them,
 * possessive quantifiers and atomic groups as lookaheads with a back reference, `(?i:…)` spelled out. What has no exact
 * counterpart is refused by name.
 */
import { EXPRESSION_WORD, FLAGS, LETTER, NUMBER, SPACE } from './code-points.js'

/** Word characters outside of brackets alone: Oniguruma looks those of Latin 1 up in another table there. */
const LATIN_WORDS = new Set([0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe])
/** Stands for word characters inside of brackets. */
const CLASS_WORD = -1

const ATOM_END = /[*+?{]/

function isIn(codePoint: number, flag: number): boolean {
  if (flag === CLASS_WORD) return isIn(codePoint, EXPRESSION_WORD) && !LATIN_WORDS.has(codePoint)
  return ((FLAGS[codePoint] ?? 0) & flag) !== 0
}

/** Class bodies (what goes between brackets) by flag; ranges of code points. */
function bodyOf(flag: number): string {
  const hex = (codePoint: number) => `\\u{${codePoint.toString(16)}}`
  let body = ''
  let start = -1
  for (let at = 0; at <= FLAGS.length; at++) {
    const inside = at < FLAGS.length && isIn(at, flag)
    if (inside && start < 0) start = at
    if (!inside && start >= 0) {
      body += start === at - 1 ? hex(start) : `${hex(start)}-${hex(at - 1)}`
      start = -1
    }
  }
  return body
}

const bodies = new Map<number, string>()
function classBody(flag: number): string {
  let body = bodies.get(flag)
  if (body === undefined) {
    body = bodyOf(flag)
    bodies.set(flag, body)
  }
  return body
}

/** What a letter is equal to beside its other case, where case is ignored. */
const FOLDS: Readonly<Record<string, string>> = { s: '\\u017f', k: '\\u212a' }
const POSIX: Readonly<Record<string, string>> = {
  alpha: '\\p{Alphabetic}',
  digit: '\\p{Nd}',
  alnum: '\\p{Alphabetic}\\p{M}\\p{Nd}',
  upper: '\\p{Uppercase}',
  lower: '\\p{Lowercase}',
  punct: '\\p{P}$+<=>^`|~',
}

/** A set of characters: what stands between brackets, and whether it is what is left out. */
interface CharacterSet {
  readonly body: string
  readonly negated: boolean
}

/**
 * @throws Error that names what has no counterpart
 */
export function translate(pattern: string): RegExp {
  return new RegExp(new Translator(pattern).translate(), 'gu')
}

/** A pattern that matches the text as it is. */
export function literal(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'gu')
}

class Translator {
  readonly #pattern: string
  #at = 0
  #groups = 0

  constructor(pattern: string) {
    this.#pattern = pattern
  }

  translate(): string {
    const start = /^\(\?i\)/.exec(this.#pattern)
    if (start) this.#at = start[0].length
    const source = this.#alternatives(start !== null)
    if (this.#at < this.#pattern.length) throw this.#refusal('an unbalanced )')
    return source
  }

  #refusal(what: string): Error {
    return new Error(`the pattern ${JSON.stringify(this.#pattern)} has ${what}, which is not known`)
  }

  #peek(length = 1): string {
    return this.#pattern.slice(this.#at, this.#at + length)
  }

  #take(): string {
    const char = String.fromCodePoint(this.#pattern.codePointAt(this.#at) ?? 0)
    this.#at += char.length
    return char
  }

  #alternatives(ignoreCase: boolean): string {
    let source = ''
    while (this.#at < this.#pattern.length && this.#peek() !== ')') {
      if (this.#peek() === '|') {
        this.#at += 1
        source += '|'
      } else {
        source += this.#quantified(ignoreCase)
      }
    }
    return source
  }

  #quantified(ignoreCase: boolean): string {
    const atom = this.#atom(ignoreCase)
    const quantifier = /^(?:[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\})/.exec(this.#pattern.slice(this.#at))?.[0]
    if (quantifier === undefined) return atom
    this.#at += quantifier.length
    const counted = quantifier.startsWith('{,') ? `{0${quantifier.slice(1)}` : quantifier
    const next = this.#peek()
    if (next === '?') {
      if (quantifier.startsWith('{') && !quantifier.includes(',')) throw this.#refusal(`the quantifier ${quantifier}?`)
      this.#at += 1
      return `${atom}${counted}?`
    }
    if (next === '+' && !quantifier.startsWith('{')) {
      this.#at += 1
      return this.#atomic(`${atom}${counted}`)
    }
    if (ATOM_END.test(next) && next !== '') throw this.#refusal(`the quantifiers ${quantifier}${next}`)
    return `${atom}${counted}`
  }

  /** Once matched, never given back: lookaheads are not entered again. */
  #atomic(source: string): string {
    const name = `atomic${this.#groups++}`
    return `(?:(?=(?<${name}>${source}))\\k<${name}>)`
  }

  #atom(ignoreCase: boolean): string {
    const char = this.#take()
    if (char === '(') return this.#group(ignoreCase)
    if (char === '[') return written(this.#set(ignoreCase))
    if (char === '.') return '[^\\n]'
    if (char === '^') return '(?<![^\\n])'
    if (char === '$') return '(?![^\\n])'
    if (char === '\\') return this.#escape(ignoreCase)
    if (ATOM_END.test(char)) throw this.#refusal(`a ${char} that repeats nothing`)
    return written(charSet(char, ignoreCase))
  }

  #group(ignoreCase: boolean): string {
    let open = '(?:'
    let atomic = false
    let inside = ignoreCase
    if (this.#peek() === '?') {
      const kind = /^\?(?::|=|!|<=|<!|>|i:|-i:)/.exec(this.#pattern.slice(this.#at))?.[0]
      if (kind === undefined) throw this.#refusal(`the group (${this.#peek(3)}`)
      this.#at += kind.length
      atomic = kind === '?>'
      if (kind === '?i:') inside = true
      if (kind === '?-i:') inside = false
      if (/^\?(?:=|!|<=|<!)$/.test(kind)) open = `(${kind}`
    }
    const source = this.#alternatives(inside)
    if (this.#take() !== ')') throw this.#refusal('an unbalanced (')
    return atomic ? this.#atomic(`(?:${source})`) : `${open}${source})`
  }

  #escape(ignoreCase: boolean): string {
    const next = this.#peek()
    if (next === 'A') return this.#anchor('(?<![\\s\\S])')
    if (next === 'z') return this.#anchor('(?![\\s\\S])')
    if (next === 'b') {
      const word = `[${classBody(EXPRESSION_WORD)}]`
      return this.#anchor(`(?:(?<=${word})(?!${word})|(?<!${word})(?=${word}))`)
    }
    return written(this.#escapedSet(ignoreCase))
  }

  #anchor(source: string): string {
    this.#at += 1
    return source
  }

  /** What an escape stands for, behind its backslash. */
  #escapedSet(ignoreCase: boolean, isInside = false): CharacterSet {
    const char = this.#take()
    switch (char) {
      case 's':
      case 'S':
        return { body: classBody(SPACE), negated: char === 'S' }
      case 'd':
      case 'D':
        return { body: '\\p{Nd}', negated: char === 'D' }
      case 'w':
      case 'W':
        return { body: classBody(isInside ? CLASS_WORD : EXPRESSION_WORD), negated: char === 'W' }
      case 'p':
      case 'P':
        return this.#property(char === 'P')
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'v':
        return { body: `\\${char}`, negated: false }
      case 'x':
      case 'u':
        return this.#code(char, ignoreCase)
      default:
        if (/[0-9A-Za-z]/.test(char)) throw this.#refusal(`the escape \\${char}`)
        return charSet(char, false)
    }
  }

  #code(kind: string, ignoreCase: boolean): CharacterSet {
    const rest = this.#pattern.slice(this.#at)
    const found =
      kind === 'u' ? /^([0-9A-Fa-f]{4})/.exec(rest) : /^(?:\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{2}))/.exec(rest)
    if (!found) throw this.#refusal(`the escape \\${kind}`)
    this.#at += found[0].length
    return charSet(String.fromCodePoint(Number.parseInt(found[1] ?? found[2] ?? '', 16)), ignoreCase)
  }

  #property(isUpper: boolean): CharacterSet {
    const found = /^(?:\{(\^?)([A-Za-z_]+)\}|([A-Z]))/.exec(this.#pattern.slice(this.#at))
    if (!found) throw this.#refusal('a property without a name')
    this.#at += found[0].length
    const negated = isUpper !== (found[1] === '^')
    const name = found[2] ?? found[3] ?? ''
    if (/^(?:L|Letter)$/i.test(name)) return { body: classBody(LETTER), negated }
    if (/^(?:N|Number)$/i.test(name)) return { body: classBody(NUMBER), negated }
    if (/^(?:space|White_Space)$/i.test(name)) return { body: classBody(SPACE), negated }
    const posix = POSIX[name.toLowerCase()]
    if (posix !== undefined) return { body: posix, negated }
    for (const body of [`\\p{${name}}`, `\\p{Script=${name}}`]) {
      try {
        new RegExp(`[${body}]`, 'u')
        return { body, negated }
      } catch {
        // Another kind of name, perhaps.
      }
    }
    throw this.#refusal(`the property ${name}`)
  }

  /** Behind its opening bracket. */
  #set(ignoreCase: boolean): CharacterSet {
    const negated = this.#peek() === '^'
    if (negated) this.#at += 1
    let body = ''
    for (let first = true; ; first = false) {
      if (this.#at >= this.#pattern.length) throw this.#refusal('an unbalanced [')
      if (this.#peek() === ']' && !first) break
      if (this.#peek(2) === '&&') throw this.#refusal('an intersection of classes')
      body += this.#member(ignoreCase)
    }
    this.#at += 1
    return { body, negated }
  }

  #member(ignoreCase: boolean): string {
    const posix = /^\[:(\^?)([a-z]+):\]/.exec(this.#pattern.slice(this.#at))
    if (posix) {
      const flag = { space: SPACE, word: CLASS_WORD }[posix[2] ?? '']
      const body = flag === undefined ? POSIX[posix[2] ?? ''] : classBody(flag)
      if (body === undefined || posix[1] !== '') throw this.#refusal(`the class ${posix[0]}`)
      this.#at += posix[0].length
      return body
    }
    const single = this.#memberSet(ignoreCase)
    const isRange = this.#peek() === '-' && this.#peek(2) !== '-]' && /^\\u\{[0-9a-f]+\}$/.test(single)
    if (!isRange) return single
    this.#at += 1
    const last = this.#memberSet(false)
    if (!/^\\u\{[0-9a-f]+\}$/.test(last)) throw this.#refusal('a range that ends in a class')
    if (ignoreCase) throw this.#refusal('a range where case is ignored')
    return `${single}-${last}`
  }

  #memberSet(ignoreCase: boolean): string {
    const char = this.#take()
    const set =
      char === '['
        ? this.#set(ignoreCase)
        : char === '\\'
          ? this.#escapedSet(ignoreCase, true)
          : charSet(char, ignoreCase)
    if (!set.negated) return set.body
    // A class within a class cannot be left out but for those that have a name.
    if (/^\\p\{[A-Za-z_=]+\}$/.test(set.body)) return set.body.replace('\\p', '\\P')
    const rest = complement(set.body)
    if (rest === undefined) throw this.#refusal('a negated class within a class')
    return rest
  }
}

function complement(body: string): string | undefined {
  const flag = [SPACE, LETTER, NUMBER, CLASS_WORD].find((each) => body === classBody(each))
  return flag === undefined ? undefined : complementOf(flag)
}

function complementOf(flag: number): string {
  const ranges = classBody(flag).matchAll(/\\u\{([0-9a-f]+)\}(?:-\\u\{([0-9a-f]+)\})?/g)
  let body = ''
  let next = 0
  for (const [, from = '', to = from] of ranges) {
    const start = Number.parseInt(from, 16)
    if (start > next) body += `\\u{${next.toString(16)}}-\\u{${(start - 1).toString(16)}}`
    next = Number.parseInt(to, 16) + 1
  }
  return `${body}\\u{${next.toString(16)}}-\\u{10ffff}`
}

function charSet(char: string, ignoreCase: boolean): CharacterSet {
  const code = (text: string) => `\\u{${(text.codePointAt(0) ?? 0).toString(16)}}`
  const [lower, upper] = [char.toLowerCase(), char.toUpperCase()]
  if (!ignoreCase || lower === upper) return { body: code(char), negated: false }
  return { body: `${code(lower)}${code(upper)}${FOLDS[lower] ?? ''}`, negated: false }
}

function written({ body, negated }: CharacterSet): string {
  if (!negated && /^\\u\{[0-9a-f]+\}$/.test(body)) return body
  return `[${negated ? '^' : ''}${body}]`
}
