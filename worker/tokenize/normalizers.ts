/** Normalisers of tokenizer.json as functions from text to text. */
import { z } from 'zod'
import { has, lowerCase, newerClass, SPACE } from './code-points.js'
import { Precompiled } from './precompiled.js'

export type Normalise = (text: string) => string

const normalizerSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal(['NFC', 'NFD', 'NFKC', 'NFKD']) }),
  z.object({ type: z.literal('Lowercase') }),
  z.object({ type: z.literal('Strip'), strip_left: z.boolean(), strip_right: z.boolean() }),
  z.object({ type: z.literal('Precompiled'), precompiled_charsmap: z.string() }),
  z.object({
    type: z.literal('Replace'),
    // A space or a run of them, as every converter of sentencepiece models writes it. Anything else could move the
    // places where a text may be cut.
    pattern: z.union([z.object({ Regex: z.literal(' {2,}') }), z.object({ String: z.literal(' ') })]),
    content: z.string(),
  }),
])
type NormalizerConfig = z.infer<typeof normalizerSchema>

/** Throws an Error that names a normaliser which is not known. */
export function buildNormaliser(config: unknown): Normalise | null {
  if (config === null || config === undefined) return null
  const steps = flatten(config).map(step)
  return (text) => {
    let result = text
    for (const normalise of steps) result = normalise(result)
    return result
  }
}

function flatten(config: unknown): NormalizerConfig[] {
  const { type, normalizers } = z
    .looseObject({ type: z.string(), normalizers: z.array(z.unknown()).default([]) })
    .parse(config)
  if (type === 'Sequence') return normalizers.flatMap(flatten)
  const result = normalizerSchema.safeParse(config)
  if (!result.success) throw new Error(`normalizer ${type} is not known, or not with these settings`)
  return [result.data]
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
    case 'Replace': {
      const spaces = 'Regex' in config.pattern ? / {2,}/g : / /g
      return (text) => text.replace(spaces, () => config.content)
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

function strip(text: string, left: boolean, right: boolean): string {
  let start = 0
  let end = text.length
  while (left && start < end && has(text.charCodeAt(start), SPACE)) start += 1
  while (right && end > start && has(text.charCodeAt(end - 1), SPACE)) end -= 1
  return text.slice(start, end)
}
