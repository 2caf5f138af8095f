/** From the files of a folder to a Tokenizer (tokenizer.ts); refuses what it does not know. */
import { z } from 'zod'
import { BertCharacters, type BertNormalizerOptions } from './bert-characters.js'
import { BytePairEncoder } from './byte-pair.js'
import { GeneralEncoder } from './general-encoder.js'
import { buildNormaliser, type Normaliser } from './normalizers.js'
import { type PairTemplate, pairTemplate, postProcessorSchema } from './pair-template.js'
import { CharacterPairs, type PieceModel, WholeWords, WordParts } from './piece-models.js'
import { buildPreTokenizer } from './pre-tokenizers.js'
import { type Json, rebuild, tokenText } from './rebuilt-definition.js'
import { addedTokenSchema, addTokens } from './special-tokens.js'
import { type PieceEncoder, TextPipeline } from './text-pipeline.js'
import { givesTokenTypes, tokenizerClassOf } from './tokenizer-class.js'
import { UnigramEncoder } from './unigram.js'
import { WordPieceEncoder } from './word-piece.js'

/** What the files of a folder hold that a tokeniser depends on. */
export interface TokenizerSource {
  /** tokenizer.json. */
  readonly definition: Json
  /** tokenizer_config.json, and what sentence-transformers passes over it; empty where there is none. */
  readonly settings: Json
  /** special_tokens_map.json, empty where there is none. */
  readonly specialTokens: Json
  /** added_tokens.json of old folders, empty where there is none. */
  readonly legacyTokens: Readonly<Record<string, number>>
  /** config.json, empty where there is none. */
  readonly model: Json
  /** sentence-transformers puts its own `Lowercase` first. */
  readonly lowercase: boolean
}

const component = z.looseObject({ type: z.string() })
type Component = z.infer<typeof component>
type Definition = z.infer<typeof definitionSchema>

const definitionSchema = z.object({
  added_tokens: z.array(addedTokenSchema).default([]),
  truncation: z.looseObject({ direction: z.string().optional() }).nullish(),
  padding: z.looseObject({ pad_token: z.string(), pad_id: z.int().nonnegative() }).nullish(),
  normalizer: component.nullish(),
  pre_tokenizer: component.nullish(),
  post_processor: postProcessorSchema,
  // BERT's file of 2018 had no type here: WordPiece was the only one with that prefix.
  model: z.looseObject({ type: z.string().optional() }),
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

const wordLevelSchema = z.object({ unk_token: z.string().default('<unk>'), vocab: vocabularySchema })

const unigramSchema = z.object({
  unk_id: z.number().int().nonnegative(),
  byte_fallback: z.boolean().default(false),
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
  split: z.literal(true).default(true),
})

const bytePairSchema = z.object({
  dropout: z.literal([null, 0], 'dropout is not known').optional(),
  unk_token: z.string().nullish(),
  continuing_subword_prefix: z.string().nullish(),
  end_of_word_suffix: z.string().nullish(),
  fuse_unk: z.boolean().default(false),
  byte_fallback: z.boolean().default(false),
  ignore_merges: z.boolean().default(false),
  vocab: vocabularySchema,
  merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
})

const byteLevelSchema = z.object({
  add_prefix_space: z.boolean().default(true),
  use_regex: z.literal(true).default(true),
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

function unknownIn(vocabulary: ReadonlyMap<string, number>, token: string): number {
  const id = vocabulary.get(token)
  if (id === undefined) throw new Error(`model.vocab lacks the unknown token ${token}`)
  return id
}

/** How pieces of normalised text become ids; `whole` reads words as well, and cuts long texts safely. */
interface Model {
  readonly vocabulary: ReadonlyMap<string, number>
  readonly whole: (definition: Definition) => { pieces: PieceEncoder; normaliser?: null } | undefined
  readonly pieces: () => PieceModel
}

function wordPiece(model: z.output<typeof wordPieceSchema>): Model {
  const vocabulary = vocabularyMap(model.vocab)
  const options = {
    vocabulary,
    unknownId: unknownIn(vocabulary, model.unk_token),
    continuingPrefix: model.continuing_subword_prefix,
    maxCharsPerWord: model.max_input_chars_per_word,
  }
  return {
    vocabulary,
    pieces: () => new WordParts(options),
    whole: ({ pre_tokenizer: preTokenizer, normalizer, added_tokens: added }) => {
      if (preTokenizer?.type !== 'BertPreTokenizer') return undefined
      // Normalising while splitting is faster, but hides the normalised text from added tokens that look for it.
      const isApart = normalizer?.type !== 'BertNormalizer' || added.some(({ normalized }) => normalized)
      const characters = new BertCharacters(isApart ? null : bertOptions(normalizer))
      return { pieces: new WordPieceEncoder({ ...options, characters }), ...(isApart ? {} : { normaliser: null }) }
    },
  }
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

function unigram(model: z.output<typeof unigramSchema>): Model {
  if (model.unk_id >= model.vocab.length) throw new Error('model.unk_id is not in model.vocab')
  const options = { vocabulary: model.vocab, unknownId: model.unk_id, byteFallback: model.byte_fallback }
  const inside = { replacement: '▁', prepend: 'never', splitWhitespace: false } as const
  return {
    vocabulary: new Map(model.vocab.map(([token], id) => [token, id])),
    pieces: () => new UnigramEncoder({ ...options, ...inside }),
    whole: (definition) => {
      const steps = sequence(definition.pre_tokenizer)
      const split = steps.slice(0, -1)
      const words = metaspaceSchema.safeParse(steps.at(-1)).data
      if (steps.at(-1)?.type !== 'Metaspace' || !words || split.length > 1) return undefined
      if (split.some(({ type }) => type !== 'WhitespaceSplit')) return undefined
      const pieces = new UnigramEncoder({
        ...options,
        replacement: words.replacement,
        prepend: words.prepend_scheme ?? (words.add_prefix_space ? 'always' : 'never'),
        splitWhitespace: split.length === 1,
      })
      return { pieces }
    },
  }
}

function bytePair(model: z.output<typeof bytePairSchema>): Model {
  const vocabulary = vocabularyMap(model.vocab)
  const merges = model.merges.map((merge) => (typeof merge === 'string' ? splitMerge(merge) : merge))
  const [continuingPrefix, endSuffix] = [model.continuing_subword_prefix ?? '', model.end_of_word_suffix ?? '']
  return {
    vocabulary,
    pieces: () =>
      new CharacterPairs({
        vocabulary,
        merges,
        ignoreMerges: model.ignore_merges,
        byteFallback: model.byte_fallback,
        unknownId: model.unk_token == null ? undefined : unknownIn(vocabulary, model.unk_token),
        fuseUnknown: model.fuse_unk,
        continuingPrefix,
        endSuffix,
      }),
    whole: (definition) => {
      const [byteLevel, ...others] = sequence(definition.pre_tokenizer)
      const words = byteLevelSchema.safeParse(byteLevel).data
      if (byteLevel?.type !== 'ByteLevel' || !words || others.length > 0) return undefined
      if (continuingPrefix !== '' || endSuffix !== '' || !BytePairEncoder.covers(vocabulary)) return undefined
      const { ignore_merges: ignoreMerges } = model
      return {
        pieces: new BytePairEncoder({ vocabulary, merges, ignoreMerges, addPrefixSpace: words.add_prefix_space }),
      }
    },
  }
}

function splitMerge(merge: string): [string, string] {
  const at = merge.indexOf(' ')
  return [merge.slice(0, at), merge.slice(at + 1)]
}

function wordLevel(model: z.output<typeof wordLevelSchema>): Model {
  const vocabulary = vocabularyMap(model.vocab)
  const unknownId = unknownIn(vocabulary, model.unk_token)
  return { vocabulary, pieces: () => new WholeWords(vocabulary, unknownId), whole: () => undefined }
}

/** The steps of a pre-tokeniser, whether it is a Sequence or not. */
function sequence(config: Component | null | undefined): Component[] {
  if (config == null) return []
  if (config.type !== 'Sequence') return [config]
  return parse(z.array(component), config.pretokenizers, 'pre_tokenizer')
}

function modelOf({ model }: Definition): Model {
  switch (model.type ?? 'WordPiece') {
    case 'WordPiece':
      return wordPiece(parse(wordPieceSchema, model, 'model'))
    case 'Unigram':
      return unigram(parse(unigramSchema, model, 'model'))
    case 'BPE':
      return bytePair(parse(bytePairSchema, model, 'model'))
    case 'WordLevel':
      return wordLevel(parse(wordLevelSchema, model, 'model'))
    default:
      throw new Error(`model ${model.type} is not known`)
  }
}

/** sentence-transformers' `do_lower_case`: nothing is added where the pipeline has a `Lowercase` already. */
function lowered(normalizer: Component | null | undefined): Component {
  const steps =
    normalizer?.type === 'Sequence' ? (normalizer.normalizers as Component[]) : normalizer ? [normalizer] : []
  if (normalizer && steps.some(({ type }) => type === 'Lowercase')) return normalizer
  return { type: 'Sequence', normalizers: [{ type: 'Lowercase' }, ...steps] }
}

/** The settings with special_tokens_map.json over them, which is read only where tokens are not listed with their ids. */
function settingsOf({ settings, specialTokens }: TokenizerSource): Json {
  return 'added_tokens_decoder' in settings ? settings : { ...settings, ...specialTokens }
}

function namedClass({ definition, settings, model }: TokenizerSource): string {
  const named = settings.tokenizer_class ?? model.tokenizer_class
  const { auto_map: ownCode } = settings
  return tokenizerClassOf({
    modelType: typeof model.model_type === 'string' ? model.model_type : undefined,
    named: typeof named === 'string' ? named : undefined,
    hasOwnCode:
      Array.isArray(ownCode) || (typeof ownCode === 'object' && ownCode !== null && 'AutoTokenizer' in ownCode),
    isByteLevel: isByteLevel(definition.pre_tokenizer) || isByteLevel(definition.decoder),
  })
}

function isByteLevel(config: unknown): boolean {
  return config !== undefined && JSON.stringify(config).includes('"ByteLevel"')
}

/** Throws an Error that names the fault. */
export function buildTokenizer(source: TokenizerSource) {
  const settings = settingsOf(source)
  const className = namedClass(source)
  const rebuilt = rebuild(className, source.definition, settings)
  const ofFile = parse(z.array(addedTokenSchema).default([]), source.definition.added_tokens, 'tokenizer.added_tokens')
  const { model: modelPart } = parse(z.object({ model: z.looseObject({}) }), rebuilt.definition, 'tokenizer')
  const { tokens, idOf } = addTokens(ofFile, idsIn(modelPart), rebuilt, { settings, legacy: source.legacyTokens })
  const file = parse(
    definitionSchema,
    {
      ...rebuilt.definition,
      ...(rebuilt.postProcessor ? { post_processor: rebuilt.postProcessor(idOf) } : {}),
      added_tokens: [],
    },
    'tokenizer',
  )
  const { truncation_side: side = file.truncation?.direction } = settings
  if (typeof side === 'string' && side.toLowerCase() === 'left') throw new Error('truncation_side left is not known')
  const normalizer = source.lowercase ? lowered(file.normalizer) : file.normalizer
  const added = settings.split_special_tokens === true ? tokens.filter(({ special }) => !special) : tokens
  const definition = { ...file, normalizer, added_tokens: added }
  const { vocabulary, pipeline } = pipelineOf(definition)
  const padToken = tokenText(settings.pad_token ?? file.padding?.pad_token ?? rebuilt.specials.pad_token)
  const { pad_token_id: configured } = source.model
  const padId = padToken === undefined ? file.padding?.pad_id : idOf(padToken)
  let highest = 0
  for (const id of vocabulary.values()) highest = Math.max(highest, id)
  for (const { id } of ofFile) highest = Math.max(highest, id)
  const inputs = settings.model_input_names
  const typed = Array.isArray(inputs) ? inputs.includes('token_type_ids') : givesTokenTypes(className)
  const template = pairTemplate(file.post_processor)
  return {
    encode: (text: string, maxTokens: number) => pipeline.encode(text, maxTokens),
    template: typed ? template : untyped(template),
    padId: padId ?? (typeof configured === 'number' && configured >= 0 ? configured : 0),
    vocabularySize: highest + 1,
  }
}

function idsIn({ vocab }: Json): Map<string, number> {
  if (!Array.isArray(vocab)) return new Map(Object.entries((vocab ?? {}) as Record<string, number>))
  return new Map(vocab.map((entry, id) => [String((entry as unknown[])[0]), id]))
}

function pipelineOf(definition: Definition): { vocabulary: ReadonlyMap<string, number>; pipeline: TextPipeline } {
  const model = modelOf(definition)
  const whole = model.whole(definition)
  const normaliser: Normaliser | null = whole?.normaliser === null ? null : buildNormaliser(definition.normalizer)
  const pieces = whole?.pieces ?? new GeneralEncoder(buildPreTokenizer(definition.pre_tokenizer), model.pieces())
  const pipeline = new TextPipeline({
    addedTokens: definition.added_tokens,
    normalise: normaliser?.normalise ?? null,
    pieces,
    readsAll: !whole || normaliser?.isLocal === false,
  })
  return { vocabulary: model.vocabulary, pipeline }
}

/** For models whose tokeniser gives no token types: where the graph wants some, they are all 0. */
function untyped(template: PairTemplate): PairTemplate {
  return { ...template, typeIds: { before: 0, first: 0, between: 0, second: 0, after: 0 } }
}
