/**
 * Pre-tokenisers of tokenizer.json as functions from pieces of text to smaller ones, as the Rust `tokenizers` cut them:
 * for files whose model and pre-tokeniser have no encoder of their own here.
 */
import { z } from 'zod'
import { byteCharacters, wordEnd } from './byte-level.js'
import { has, NUMBER, PUNCTUATION_MARK, SPACE, WORD } from './code-points.js'
import { literal, translate } from './regular-expression.js'

export interface Piece {
  readonly text: string
  /** How much of it the text's first character became; 0 in all pieces but the first, or the first few. */
  readonly firstUnits: number
}

export type Cut = (piece: Piece) => Piece[]

/** A part of a piece, from one end to the next, and whether it is what was looked for. */
interface Span {
  readonly end: number
  readonly found: boolean
}

const BEHAVIORS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const
type Behavior = (typeof BEHAVIORS)[number]

const behavior = z
  .string()
  .transform((name) => name.toLowerCase().replaceAll('_', ''))
  .pipe(z.string())
  .transform((name, context): Behavior => {
    const known = BEHAVIORS.find((each) => each.toLowerCase() === name)
    if (known) return known
    context.issues.push({ code: 'custom', message: `behavior ${name} is not known`, input: name })
    return z.NEVER
  })

export const patternSchema = z.union([z.strictObject({ String: z.string() }), z.strictObject({ Regex: z.string() })])

const schema = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal(['BertPreTokenizer', 'Whitespace', 'WhitespaceSplit']) }),
  z.looseObject({
    type: z.literal('ByteLevel'),
    add_prefix_space: z.boolean().default(true),
    use_regex: z.boolean().default(true),
  }),
  z.looseObject({ type: z.literal('CharDelimiterSplit'), delimiter: z.string() }),
  z.looseObject({ type: z.literal('Digits'), individual_digits: z.boolean().default(false) }),
  z.looseObject({ type: z.literal('FixedLength'), length: z.int().positive().default(5) }),
  z.looseObject({
    type: z.literal('Metaspace'),
    replacement: z.string().min(1).default('▁'),
    prepend_scheme: z.enum(['always', 'first', 'never']).optional(),
    // What older files have in place of prepend_scheme.
    add_prefix_space: z.boolean().default(true),
    split: z.boolean().default(true),
  }),
  z.looseObject({ type: z.literal('Punctuation'), behavior: behavior.default('Isolated') }),
  z.looseObject({ type: z.literal('Split'), pattern: patternSchema, behavior, invert: z.boolean().default(false) }),
])

/** Throws an Error that names a pre-tokeniser which is not known. */
export function buildPreTokenizer(config: unknown): Cut {
  if (config === null || config === undefined) return (piece) => [piece]
  const { type, pretokenizers } = z
    .looseObject({ type: z.string(), pretokenizers: z.array(z.unknown()).default([]) })
    .parse(config)
  if (type === 'Sequence') {
    const steps = pretokenizers.map(buildPreTokenizer)
    return (piece) => steps.reduce((pieces, cut) => pieces.flatMap(cut), [piece])
  }
  const { data, error } = schema.safeParse(config)
  if (data) return step(data)
  const [issue] = error.issues
  throw new Error(
    `pre_tokenizer ${type} is not known${issue?.path.length ? ` so (${issue.path.join('.')}: ${issue.message})` : ''}`,
  )
}

function step(config: z.output<typeof schema>): Cut {
  switch (config.type) {
    case 'BertPreTokenizer': {
      const words = splitter(
        each((codePoint) => has(codePoint, SPACE)),
        'Removed',
      )
      const marks = splitter(
        each((codePoint) => has(codePoint, PUNCTUATION_MARK)),
        'Isolated',
      )
      return (piece) => words(piece).flatMap(marks)
    }
    case 'Whitespace':
      return whitespace
    case 'WhitespaceSplit':
      return splitter(
        each((codePoint) => has(codePoint, SPACE)),
        'Removed',
      )
    case 'Digits':
      return splitter(
        each((codePoint) => has(codePoint, NUMBER)),
        config.individual_digits ? 'Isolated' : 'Contiguous',
      )
    case 'Punctuation':
      return splitter(
        each((codePoint) => has(codePoint, PUNCTUATION_MARK)),
        config.behavior,
      )
    case 'CharDelimiterSplit':
      return splitter(matches(literal(config.delimiter)), 'Removed')
    case 'Split': {
      const { pattern } = config
      const expression = 'Regex' in pattern ? translate(pattern.Regex) : literal(pattern.String)
      const find = 'String' in pattern && pattern.String === '' ? none : matches(expression)
      return splitter(find, config.behavior, config.invert)
    }
    case 'FixedLength':
      return ({ text, firstUnits }) => {
        const characters = Array.from(text)
        const count = Math.ceil(characters.length / config.length)
        return Array.from({ length: count }, (_, i) => ({
          text: characters.slice(i * config.length, (i + 1) * config.length).join(''),
          firstUnits: i === 0 ? firstUnits : 0,
        }))
      }
    case 'Metaspace':
      return metaspace(
        config.replacement,
        config.prepend_scheme ?? (config.add_prefix_space ? 'always' : 'never'),
        config.split,
      )
    case 'ByteLevel':
      return byteLevel(config.add_prefix_space, config.use_regex)
  }
}

/** Rust's \w+|[^\w\s]+ */
function whitespace({ text, firstUnits }: Piece): Piece[] {
  const pieces: Piece[] = []
  let start = 0
  let kind = SPACE
  const end = (at: number) => {
    if (kind !== SPACE && at > start)
      pieces.push({ text: text.slice(start, at), firstUnits: Math.max(0, firstUnits - start) })
  }
  for (let at = 0; at < text.length; ) {
    const codePoint = text.codePointAt(at) ?? 0
    const next = has(codePoint, WORD) ? WORD : has(codePoint, SPACE) ? SPACE : 0
    if (next !== kind) {
      end(at)
      start = at
      kind = next
    }
    at += codePoint > 0xffff ? 2 : 1
  }
  end(text.length)
  return pieces
}

type Find = (text: string) => Span[]

/** Every character that is one. */
function each(isOne: (codePoint: number) => boolean): Find {
  return (text) => {
    const spans: Span[] = []
    let open = false
    let at = 0
    while (at < text.length) {
      const codePoint = text.codePointAt(at) ?? 0
      const end = at + (codePoint > 0xffff ? 2 : 1)
      if (isOne(codePoint)) {
        if (open) spans.push({ end: at, found: false })
        spans.push({ end, found: true })
        open = false
      } else {
        open = true
      }
      at = end
    }
    if (open) spans.push({ end: text.length, found: false })
    return spans
  }
}

function matches(expression: RegExp): Find {
  return (text) => {
    const spans: Span[] = []
    let last = 0
    for (const found of text.matchAll(expression)) {
      const end = found.index + found[0].length
      if (found.index > last) spans.push({ end: found.index, found: false })
      spans.push({ end, found: true })
      last = end
    }
    if (last < text.length) spans.push({ end: text.length, found: false })
    return spans
  }
}

const none: Find = (text) => [{ end: text.length, found: false }]

/** `NormalizedString::split`. */
function splitter(find: Find, rule: Behavior, invert = false): Cut {
  return ({ text, firstUnits }) => {
    const spans = invert ? find(text).map(({ end, found }) => ({ end, found: !found })) : find(text)
    const pieces: Piece[] = []
    let start = 0
    for (const { end, dropped } of joined(spans, rule)) {
      if (!dropped && end > start)
        pieces.push({ text: text.slice(start, end), firstUnits: Math.max(0, firstUnits - start) })
      start = end
    }
    return pieces
  }
}

function joined(spans: readonly Span[], rule: Behavior): { end: number; dropped: boolean }[] {
  const out: { end: number; dropped: boolean }[] = []
  let before = false
  for (const [i, { end, found }] of spans.entries()) {
    const last = out.at(-1)
    const next = spans[i + 1]
    if (rule === 'Contiguous' && last && found === before) last.end = end
    else if (rule === 'MergedWithPrevious' && found && !before && last) last.end = end
    // It goes to the piece behind it, but of several in a row only the last does.
    else if (!(rule === 'MergedWithNext' && found && next && !next.found)) {
      out.push({ end, dropped: rule === 'Removed' && found })
    }
    before = found
  }
  return out
}

function metaspace(replacement: string, prepend: 'always' | 'first' | 'never', split: boolean): Cut {
  const words = splitter(matches(literal(replacement)), 'MergedWithNext')
  return ({ text, firstUnits }) => {
    const replaced = text.replaceAll(' ', replacement)
    const wanted = prepend === 'always' || (prepend === 'first' && firstUnits > 0)
    const whole = wanted && !replaced.startsWith(replacement) ? replacement + replaced : replaced
    return split ? words({ text: whole, firstUnits }) : [{ text: whole, firstUnits }]
  }
}

const utf8 = new TextEncoder()
const CHARACTERS = byteCharacters()

/** A text's bytes as the characters that stand for them. */
export function inByteCharacters(text: string): string {
  let out = ''
  for (const byte of utf8.encode(text)) out += CHARACTERS[byte] ?? ''
  return out
}

function byteLevel(prefixSpace: boolean, useRegex: boolean): Cut {
  return ({ text, firstUnits }) => {
    const whole = prefixSpace && !text.startsWith(' ') ? ` ${text}` : text
    if (!useRegex) return [{ text: inByteCharacters(whole), firstUnits }]
    const pieces: Piece[] = []
    for (let at = 0; at < whole.length; ) {
      const end = wordEnd(whole, at)
      pieces.push({ text: inByteCharacters(whole.slice(at, end)), firstUnits: at === 0 ? firstUnits : 0 })
      at = end
    }
    return pieces
  }
}
