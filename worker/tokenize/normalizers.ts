/** Normalisers of tokenizer.json as functions from text to text. */
import { z } from 'zod'
import { bertNormaliser } from './bert-characters.js'
import { has, lowerCase, newerClass, SPACE } from './code-points.js'
import { inByteCharacters, patternSchema } from './pre-tokenizers.js'
import { Precompiled } from './precompiled.js'
import { literal, translate } from './regular-expression.js'

export type Normalise = (text: string) => string

export interface Normaliser {
  readonly normalise: Normalise
  /** What becomes of a beginning of a text, cut where `PrefixCutter` cuts, is the beginning of what becomes of the text. */
  readonly isLocal: boolean
}

const normalizerSchema = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal(['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents', 'Nmt', 'ByteLevel']) }),
  z.looseObject({
    type: z.literal('Strip'),
    strip_left: z.boolean().default(true),
    strip_right: z.boolean().default(true),
  }),
  z.looseObject({ type: z.literal('Precompiled'), precompiled_charsmap: z.string() }),
  z.looseObject({ type: z.literal('Prepend'), prepend: z.string() }),
  z.looseObject({ type: z.literal('Replace'), pattern: patternSchema, content: z.string() }),
  z.looseObject({
    type: z.literal('BertNormalizer'),
    clean_text: z.boolean().default(true),
    handle_chinese_chars: z.boolean().default(true),
    strip_accents: z.boolean().nullish(),
    lowercase: z.boolean().default(true),
  }),
])
type NormalizerConfig = z.infer<typeof normalizerSchema>

/** Expressions that match no text at whose edge a text is cut, nor on both sides of it. */
const LOCAL_EXPRESSIONS = new Set([' {2,}', '\\s{2,}|[\\n\\r\\t]', '\\s{2,}', '[\\n\\r\\t]', '\\n', '\\t'])
/** The same of texts. */
const LOCAL_TEXT =
  /^(?: |[^\s0-9A-Za-z\u0e01-\u0e2e\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]+)$/u

/** Throws an Error that names a normaliser which is not known. */
export function buildNormaliser(config: unknown): Normaliser | null {
  if (config === null || config === undefined) return null
  const configs = flatten(config)
  if (configs.length === 0) return null
  const steps = configs.map(step)
  const normalise: Normalise = (text) => {
    let result = text
    for (const each of steps) result = each(result)
    return result
  }
  return { normalise, isLocal: configs.every(isLocal) }
}

function flatten(config: unknown): NormalizerConfig[] {
  const { type, normalizers } = z
    .looseObject({ type: z.string(), normalizers: z.array(z.unknown()).default([]) })
    .parse(config)
  if (type === 'Sequence') return normalizers.flatMap(flatten)
  const { data, error } = normalizerSchema.safeParse(config)
  if (data) return [data]
  const [issue] = error.issues
  throw new Error(
    `normalizer ${type} is not known${issue?.path.length ? ` so (${issue.path.join('.')}: ${issue.message})` : ''}`,
  )
}

function isLocal(config: NormalizerConfig): boolean {
  if (config.type !== 'Replace') return true
  const { pattern } = config
  return 'Regex' in pattern ? LOCAL_EXPRESSIONS.has(pattern.Regex) : LOCAL_TEXT.test(pattern.String)
}

function step(config: NormalizerConfig): Normalise {
  switch (config.type) {
    case 'Precompiled': {
      const precompiled = new Precompiled(config.precompiled_charsmap)
      return (text) => precompiled.normalise(text)
    }
    case 'Lowercase':
      return (text) => Array.from(text, lowerCase).join('')
    case 'Strip':
      return (text) => strip(text, config.strip_left, config.strip_right)
    case 'StripAccents': {
      const newer = new RegExp(`[${newerClass()}]`, 'u')
      return (text) => text.replace(/\p{M}/gu, (mark) => (newer.test(mark) ? mark : ''))
    }
    case 'Nmt':
      return (text) => text.replace(NMT_DROPPED, '').replace(NMT_SPACES, ' ')
    case 'ByteLevel':
      return inByteCharacters
    case 'Prepend':
      return (text) => (text === '' ? text : config.prepend + text)
    case 'BertNormalizer':
      return bertNormaliser({
        cleanText: config.clean_text,
        handleChineseChars: config.handle_chinese_chars,
        stripAccents: config.strip_accents ?? config.lowercase,
        lowercase: config.lowercase,
      })
    case 'Replace': {
      const { pattern, content } = config
      if ('String' in pattern && pattern.String === '') return (text) => text
      const expression = 'Regex' in pattern ? translate(pattern.Regex) : literal(pattern.String)
      return (text) => text.replace(expression, () => content)
    }
    default: {
      const form = config.type
      // Characters newer than the reference neither compose nor change places there.
      const newer = new RegExp(`([${newerClass()}])`, 'u')
      return (text) => {
        if (!newer.test(text)) return text.normalize(form)
        const parts = text.split(newer)
        return parts.map((part, index) => (index % 2 === 0 ? part.normalize(form) : part)).join('')
      }
    }
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is left out
const NMT_DROPPED = /[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]/g
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const NMT_SPACES = /[\u0009\u000a\u000c\u000d\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g

function strip(text: string, left: boolean, right: boolean): string {
  let start = 0
  let end = text.length
  while (left && start < end && has(text.charCodeAt(start), SPACE)) start += 1
  while (right && end > start && has(text.charCodeAt(end - 1), SPACE)) end -= 1
  return text.slice(start, end)
}
