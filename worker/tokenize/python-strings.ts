/** What templates do to texts, as Python's `str` does it. */

/** `str.isspace`: other characters than JavaScript's `trim` takes for space. */
const SPACE = '\\t\\n\\v\\f\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const LEADING = new RegExp(`^[${SPACE}]+`)
const TRAILING = new RegExp(`[${SPACE}]+$`)

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
  if (typeof value !== 'string') throw new Error('what is no text cannot be stripped')
  return value
}

const strip = (text: unknown, characters?: unknown) => rstrip(lstrip(text, characters), characters)

/** By the names that templates have for them, as filters or methods. */
export const PYTHON_STRINGS = {
  trim: strip,
  strip,
  lstrip,
  rstrip,
  capitalize: (text: unknown) => {
    const [first = '', ...rest] = Array.from(checked(text))
    return first.toUpperCase() + rest.join('').toLowerCase()
  },
} as const
export type PythonString = keyof typeof PYTHON_STRINGS
