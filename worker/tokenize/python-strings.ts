/** What templates do to texts, as Python's `str` does it. */

/** `str.isspace`: other characters than JavaScript's `trim` takes for space. */
const SPACE = '\\t\\n\\v\\f\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const LEADING = new RegExp(`^[${SPACE}]+`)
const TRAILING = new RegExp(`[${SPACE}]+$`)
const WORDS = new RegExp(`[^${SPACE}]+`, 'g')

function lstrip(text: unknown, characters?: unknown): string {
  const given = checked(text)
  const which = setOf(characters)
  if (!which) return given.replace(LEADING, '')
  const all = Array.from(given)
  let from = 0
  while (which.has(all[from] ?? '')) from++
  return all.slice(from).join('')
}

function rstrip(text: unknown, characters?: unknown): string {
  const given = checked(text)
  const which = setOf(characters)
  if (!which) return trimmedEnd(given)
  const all = Array.from(given)
  let to = all.length
  while (which.has(all[to - 1] ?? '')) to--
  return all.slice(0, to).join('')
}

/** From the end: an expression that looks for it takes the square of a run of spaces. */
function trimmedEnd(text: string): string {
  let to = text.length
  while (to > 0 && TRAILING.test(text.charAt(to - 1))) to--
  return text.slice(0, to)
}

function setOf(characters: unknown): Set<string> | undefined {
  return characters === undefined || characters === null ? undefined : new Set(Array.from(checked(characters)))
}

/** @throws Error for what has no such method in Python either */
function checked(value: unknown): string {
  if (typeof value !== 'string') throw new Error('what is no text has no methods of one')
  return value
}

const strip = (text: unknown, characters?: unknown) => rstrip(lstrip(text, characters), characters)

/** Where jinja2's `title` begins words. */
const WORD_BEGINNINGS = new RegExp(`([-${SPACE}({[<]+)`)

/** jinja2's `do_title`, which begins words elsewhere than JavaScript's `\b` does, and knows letters that are not of ASCII. */
function title(text: unknown): string {
  return checked(text).split(WORD_BEGINNINGS).map(capitalize).join('')
}

/** `str.title`: a word is a run of letters that have cases. */
function strTitle(text: unknown): string {
  return checked(text).replace(/\p{Cased}+/gu, capitalize)
}

/** `str.split`. */
function split(text: unknown, separator?: unknown, maxsplit: unknown = -1): string[] {
  const given = checked(text)
  if (typeof maxsplit !== 'number') throw new Error('maxsplit must be a number')
  const most = maxsplit < 0 ? Number.POSITIVE_INFINITY : maxsplit
  if (separator === undefined || separator === null) return words(given, most)
  const by = checked(separator)
  if (by === '') throw new Error('empty separator')
  const parts = given.split(by)
  return parts.length <= most + 1 ? parts : [...parts.slice(0, most), parts.slice(most).join(by)]
}

function words(text: string, most: number): string[] {
  const found: string[] = []
  for (const { 0: word, index } of text.matchAll(WORDS)) {
    if (found.length === most) return [...found, text.slice(index)]
    found.push(word)
  }
  return found
}

function capitalize(text: unknown): string {
  const [first = '', ...rest] = Array.from(checked(text))
  return first.toUpperCase() + rest.join('').toLowerCase()
}

/** jinja2's filters, by their names. */
export const PYTHON_FILTERS: Readonly<Record<string, (...args: unknown[]) => unknown>> = {
  trim: strip,
  capitalize,
  title,
}

/** Methods of `str`, by their names. */
export const PYTHON_METHODS: Readonly<Record<string, (...args: unknown[]) => unknown>> = {
  strip,
  lstrip,
  rstrip,
  capitalize,
  split,
  title: strTitle,
}

/** A text's characters as Python counts them: code points. */
export function characters(text: unknown): string[] {
  return Array.from(checked(text))
}
