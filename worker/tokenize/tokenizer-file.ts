/** From the contents of tokenizer.json and tokenizer_config.json to a Tokenizer; refuses what it does not know. */
import { z } from 'zod'
import type { AddedToken } from './added-tokens.js'
import { BertCharacters, type BertNormalizerOptions, bertNormaliser } from './bert-characters.js'
import { pairTemplate, postProcessorSchema } from './pair-template.js'
import { type PieceEncoder, TextPipeline } from './text-pipeline.js'
import type { Tokenizer } from './tokenizer.js'
import { WordPieceEncoder } from './word-piece.js'

const component = z.looseObject({ type: z.string() })
type Component = z.infer<typeof component>

const addedTokenSchema = z
  .object({
    id: z.number().int().nonnegative(),
    content: z.string(),
    single_word: z.boolean().default(false),
    lstrip: z.boolean().default(false),
    rstrip: z.boolean().default(false),
    normalized: z.boolean().default(true),
  })
  .transform(({ single_word: singleWord, ...token }): AddedToken => ({ ...token, singleWord }))

const definitionSchema = z.object({
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: component.nullish(),
  pre_tokenizer: component.nullish(),
  post_processor: postProcessorSchema,
  // BERT's file of 2018 had no type here: WordPiece was the only one with that prefix.
  model: z.looseObject({ type: z.string().optional() }),
})

const configSchema = z.object({
  pad_token: z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)]).nullish(),
  truncation_side: z.string().nullish(),
})

const wordPieceSchema = z.object({
  unk_token: z.string().default('[UNK]'),
  continuing_subword_prefix: z.string().default('##'),
  max_input_chars_per_word: z.number().int().positive().default(100),
  vocab: z.custom<Record<string, number>>((value) => typeof value === 'object' && value !== null),
})

const bertNormalizerSchema = z.object({
  clean_text: z.boolean().default(true),
  handle_chinese_chars: z.boolean().default(true),
  strip_accents: z.boolean().nullish(),
  lowercase: z.boolean().default(true),
})

function parse<T>(schema: z.ZodType<T>, value: unknown, name: string): T {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  throw new Error(`${[name, ...(issue?.path ?? [])].join('.')}: ${issue?.message ?? 'invalid'}`)
}

function vocabularyMap(vocab: Record<string, number>): Map<string, number> {
  const map = new Map(Object.entries(vocab))
  for (const [token, id] of map) {
    if (!Number.isInteger(id) || id < 0) throw new Error(`model.vocab: ${JSON.stringify(token)} has no valid id`)
  }
  if (map.size === 0) throw new Error('model.vocab is empty')
  return map
}

interface Model {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly normalise: ((text: string) => string) | null
  readonly pieces: PieceEncoder
}

function bertOptions(normalizer: Component): BertNormalizerOptions {
  const options = parse(bertNormalizerSchema, normalizer, 'normalizer')
  return {
    cleanText: options.clean_text,
    handleChineseChars: options.handle_chinese_chars,
    stripAccents: options.strip_accents ?? options.lowercase,
    lowercase: options.lowercase,
  }
}

function wordPiece(definition: z.infer<typeof definitionSchema>): Model {
  const model = parse(wordPieceSchema, definition.model, 'model')
  const { normalizer, pre_tokenizer: preTokenizer } = definition
  if (preTokenizer?.type !== 'BertPreTokenizer') throw new Error('WordPiece is known only with BertPreTokenizer')
  if (normalizer != null && normalizer.type !== 'BertNormalizer')
    throw new Error(`normalizer ${normalizer.type} is not known`)
  const vocabulary = vocabularyMap(model.vocab)
  const unknownId = vocabulary.get(model.unk_token)
  if (unknownId === undefined) throw new Error(`model.vocab lacks the unknown token ${model.unk_token}`)
  const options = normalizer == null ? null : bertOptions(normalizer)
  // Normalising while splitting is faster, but hides the normalised text from added tokens that look for it.
  const apart = options !== null && definition.added_tokens.some(({ normalized }) => normalized)
  const normalise = apart ? bertNormaliser(options) : null
  const pieces = new WordPieceEncoder({
    vocabulary,
    unknownId,
    continuingPrefix: model.continuing_subword_prefix,
    maxCharsPerWord: model.max_input_chars_per_word,
    characters: new BertCharacters(apart ? null : options),
  })
  return { vocabulary, normalise, pieces }
}

/** Throws an Error that names the fault. */
export function buildTokenizer(definition: unknown, config: unknown): Tokenizer {
  const file = parse(definitionSchema, definition, 'tokenizer')
  const settings = parse(configSchema, config, 'tokenizer_config')
  if (file.model.type !== 'WordPiece') throw new Error(`model ${file.model.type} is not known`)
  const { vocabulary, normalise, pieces } = wordPiece(file)
  const pipeline = new TextPipeline({ addedTokens: file.added_tokens, normalise, pieces })
  const padToken = settings.pad_token
  const padId = file.added_tokens.find(({ content }) => content === padToken)?.id ?? vocabulary.get(padToken ?? '')
  if (padId === undefined) throw new Error('tokenizer_config has no pad_token of the vocabulary')
  let highest = 0
  for (const id of vocabulary.values()) highest = Math.max(highest, id)
  for (const { id } of file.added_tokens) highest = Math.max(highest, id)
  return {
    encode: (text, maxTokens) => pipeline.encode(text, maxTokens),
    template: pairTemplate(file.post_processor),
    padId,
    vocabularySize: highest + 1,
  }
}
