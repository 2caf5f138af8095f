/** From the contents of tokenizer.json and tokenizer_config.json to a Tokenizer (tokenizer.ts); refuses what it does not know. */
import { z } from 'zod'
import type { AddedToken } from './added-tokens.js'
import { BertCharacters, type BertNormalizerOptions, bertNormaliser } from './bert-characters.js'
import { BytePairEncoder } from './byte-pair.js'
import { buildNormaliser } from './normalizers.js'
import { pairTemplate, postProcessorSchema } from './pair-template.js'
import { type PieceEncoder, TextPipeline } from './text-pipeline.js'
import { UnigramEncoder } from './unigram.js'
import { WordPieceEncoder } from './word-piece.js'

const component = z.looseObject({ type: z.string() })
type Component = z.infer<typeof component>
type Definition = z.infer<typeof definitionSchema>

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

const vocabularySchema = z.custom<Record<string, number>>((value) => typeof value === 'object' && value !== null)

function isScored(value: unknown): value is [string, number] {
  return Array.isArray(value) && typeof value[0] === 'string' && typeof value[1] === 'number'
}

const wordPieceSchema = z.object({
  unk_token: z.string().default('[UNK]'),
  continuing_subword_prefix: z.string().default('##'),
  max_input_chars_per_word: z.number().int().positive().default(100),
  vocab: vocabularySchema,
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

const unigramSchema = z.object({
  unk_id: z.number().int().nonnegative(),
  byte_fallback: z.literal(false, 'byte_fallback is not known').default(false),
  vocab: z.custom<[string, number][]>(
    (value) => Array.isArray(value) && value.every(isScored),
    'not pairs of token and score',
  ),
})

const metaspaceSchema = z.object({
  replacement: z.string().length(1).default('▁'),
  prepend_scheme: z.enum(['always', 'first', 'never']).optional(),
  // What older files have in place of prepend_scheme.
  add_prefix_space: z.boolean().default(true),
  split: z.literal(true, 'Metaspace without split is not known').default(true),
})

const bytePairSchema = z.object({
  dropout: z.literal([null, 0], 'dropout is not known').optional(),
  continuing_subword_prefix: z.literal([null, ''], 'a prefix of pieces is not known').optional(),
  end_of_word_suffix: z.literal([null, ''], 'a suffix of words is not known').optional(),
  byte_fallback: z.literal(false, 'byte_fallback is not known').default(false),
  ignore_merges: z.boolean().default(false),
  vocab: vocabularySchema,
  merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
})

const byteLevelSchema = z.object({
  add_prefix_space: z.boolean().default(true),
  use_regex: z.literal(true, 'ByteLevel without its expression is not known').default(true),
})

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

function wordPiece(definition: Definition): Model {
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

function unigram(definition: Definition): Model {
  const model = parse(unigramSchema, definition.model, 'model')
  const steps = sequence(definition.pre_tokenizer)
  const metaspace = steps.at(-1)
  const split = steps.slice(0, -1)
  if (metaspace?.type !== 'Metaspace' || split.length > 1 || split.some(({ type }) => type !== 'WhitespaceSplit')) {
    throw new Error('Unigram is known only with Metaspace, alone or after WhitespaceSplit')
  }
  const words = parse(metaspaceSchema, metaspace, 'pre_tokenizer')
  if (model.unk_id >= model.vocab.length) throw new Error('model.unk_id is not in model.vocab')
  const pieces = new UnigramEncoder({
    vocabulary: model.vocab,
    unknownId: model.unk_id,
    replacement: words.replacement,
    prepend: words.prepend_scheme ?? (words.add_prefix_space ? 'always' : 'never'),
    splitWhitespace: split.length === 1,
  })
  const vocabulary = new Map(model.vocab.map(([token], id) => [token, id]))
  return { vocabulary, normalise: buildNormaliser(definition.normalizer), pieces }
}

function bytePair(definition: Definition): Model {
  const model = parse(bytePairSchema, definition.model, 'model')
  const [byteLevel, ...others] = sequence(definition.pre_tokenizer)
  if (byteLevel?.type !== 'ByteLevel' || others.length > 0) throw new Error('BPE is known only with ByteLevel')
  const words = parse(byteLevelSchema, byteLevel, 'pre_tokenizer')
  const vocabulary = vocabularyMap(model.vocab)
  const pieces = new BytePairEncoder({
    vocabulary,
    merges: model.merges.map((merge) => (typeof merge === 'string' ? splitMerge(merge) : merge)),
    ignoreMerges: model.ignore_merges,
    addPrefixSpace: words.add_prefix_space,
  })
  return { vocabulary, normalise: buildNormaliser(definition.normalizer), pieces }
}

function splitMerge(merge: string): [string, string] {
  const at = merge.indexOf(' ')
  return [merge.slice(0, at), merge.slice(at + 1)]
}

/** The steps of a pre-tokeniser, whether it is a Sequence or not. */
function sequence(config: Component | null | undefined): Component[] {
  if (config == null) return []
  if (config.type !== 'Sequence') return [config]
  return parse(z.array(component), config.pretokenizers, 'pre_tokenizer')
}

const MODELS: Record<string, (definition: Definition) => Model> = {
  WordPiece: wordPiece,
  Unigram: unigram,
  BPE: bytePair,
}

/** Throws an Error that names the fault. */
export function buildTokenizer(definition: unknown, config: unknown) {
  const file = parse(definitionSchema, definition, 'tokenizer')
  const settings = parse(configSchema, config, 'tokenizer_config')
  if (settings.truncation_side === 'left') throw new Error('truncation_side left is not known')
  const build = MODELS[file.model.type ?? 'WordPiece']
  if (build === undefined) throw new Error(`model ${file.model.type} is not known`)
  const { vocabulary, normalise, pieces } = build(file)
  const pipeline = new TextPipeline({ addedTokens: file.added_tokens, normalise, pieces })
  const padToken = settings.pad_token
  const padId = file.added_tokens.find(({ content }) => content === padToken)?.id ?? vocabulary.get(padToken ?? '')
  if (padId === undefined) throw new Error('tokenizer_config has no pad_token of the vocabulary')
  let highest = 0
  for (const id of vocabulary.values()) highest = Math.max(highest, id)
  for (const { id } of file.added_tokens) highest = Math.max(highest, id)
  return {
    encode: (text: string, maxTokens: number) => pipeline.encode(text, maxTokens),
    template: pairTemplate(file.post_processor),
    padId,
    vocabularySize: highest + 1,
  }
}
