/**
 * The tokeniser that a class of `transformers` (5) builds around the vocabulary of tokenizer.json, from the settings of
 * tokenizer_config.json, as a definition in tokenizer.json's own words. Each class's `__init__` is its source.
 */
import { PLAIN_CLASS } from './tokenizer-class.js'

export type Json = Readonly<Record<string, unknown>>

/** Gives a token's id, and whether it is there. */
export type IdOf = (token: string) => number | undefined

interface Build {
  readonly model: Json
  readonly normalizer: Json | null
  readonly preTokenizer: Json | null
  /** Built when added tokens are known; undefined keeps that of tokenizer.json. */
  readonly postProcessor?: (idOf: IdOf) => Json
  /** What the class calls tokens that no file names. */
  readonly specials: Readonly<Record<string, string>>
}

/** Settings as Python reads them: absent ones have the class's default. */
class Settings {
  readonly #values: Json

  constructor(values: Json) {
    this.#values = values
  }

  flag(name: string, otherwise: boolean): boolean {
    const value = this.#values[name]
    if (value === undefined || value === null) return otherwise
    if (typeof value !== 'boolean') throw new Error(`tokenizer_config.${name}: must be true or false`)
    return value
  }

  maybe(name: string): boolean | null {
    return this.#values[name] === undefined || this.#values[name] === null ? null : this.flag(name, false)
  }

  number(name: string, otherwise: number): number {
    const value = this.#values[name]
    return typeof value === 'number' ? value : otherwise
  }

  token(name: string, otherwise: string): string {
    return tokenText(this.#values[name]) ?? otherwise
  }
}

/** A token is written as a text or as an object. */
export function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value !== 'object' || value === null || !('content' in value)) return undefined
  return typeof value.content === 'string' ? value.content : undefined
}

type Builder = (definition: Json, model: Json, settings: Settings) => Build

const BERT_SPECIALS = {
  unk_token: '[UNK]',
  sep_token: '[SEP]',
  pad_token: '[PAD]',
  cls_token: '[CLS]',
  mask_token: '[MASK]',
}
const ROBERTA_SPECIALS = {
  bos_token: '<s>',
  eos_token: '</s>',
  sep_token: '</s>',
  cls_token: '<s>',
  unk_token: '<unk>',
  pad_token: '<pad>',
  mask_token: '<mask>',
}
const DEBERTA_SPECIALS = { ...BERT_SPECIALS, bos_token: '[CLS]', eos_token: '[SEP]' }
const ENDOFTEXT = '<|endoftext|>'

function wordPiece(model: Json, unknown: string): Json {
  const { vocab } = model
  return {
    type: 'WordPiece',
    unk_token: unknown,
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab,
  }
}

function bytePairs({ vocab, merges }: Json, more: Json = {}): Json {
  return { type: 'BPE', vocab, merges, ...more }
}

function bertNormalizer(settings: Settings): Json {
  return {
    type: 'BertNormalizer',
    clean_text: true,
    handle_chinese_chars: settings.flag('tokenize_chinese_chars', true),
    strip_accents: settings.maybe('strip_accents'),
    lowercase: settings.flag('do_lower_case', true),
  }
}

/** `[CLS] A [SEP] B [SEP]`, the second half of type 1. */
function pairOfTwo(cls: string, sep: string): (idOf: IdOf) => Json {
  return template([cls, 'A', sep, 'B', sep], [0, 0, 0, 1, 1])
}

function template(pieces: readonly string[], types: readonly number[]): (idOf: IdOf) => Json {
  return (idOf) => ({
    type: 'TemplateProcessing',
    pair: pieces.map((id, i) => ({
      [id === 'A' || id === 'B' ? 'Sequence' : 'SpecialToken']: { id, type_id: types[i] ?? 0 },
    })),
    special_tokens: Object.fromEntries(
      pieces.filter((id) => id !== 'A' && id !== 'B').map((id) => [id, { ids: [required(id, idOf)] }]),
    ),
  })
}

function required(token: string, idOf: IdOf): number {
  const id = idOf(token)
  if (id === undefined) throw new Error(`the special token ${token} is not in the vocabulary`)
  return id
}

function robertaPair(sep: string, cls: string): (idOf: IdOf) => Json {
  return (idOf) => ({ type: 'RobertaProcessing', sep: [sep, required(sep, idOf)], cls: [cls, required(cls, idOf)] })
}

const bert: Builder = (_, model, settings) => ({
  model: wordPiece(model, settings.token('unk_token', '[UNK]')),
  normalizer: bertNormalizer(settings),
  preTokenizer: { type: 'BertPreTokenizer' },
  postProcessor: pairOfTwo(settings.token('cls_token', '[CLS]'), settings.token('sep_token', '[SEP]')),
  specials: BERT_SPECIALS,
})

const mpnet: Builder = (definition, model, settings) => ({
  ...bert(definition, model, settings),
  postProcessor: robertaPair(settings.token('sep_token', '</s>'), settings.token('cls_token', '<s>')),
  specials: { ...ROBERTA_SPECIALS, unk_token: '[UNK]' },
})

function byteLevel(settings: Settings): Json {
  return { type: 'ByteLevel', add_prefix_space: settings.flag('add_prefix_space', false), use_regex: true }
}

const roberta: Builder = (_, model, settings) => ({
  model: bytePairs(model),
  normalizer: null,
  preTokenizer: byteLevel(settings),
  postProcessor: robertaPair(settings.token('sep_token', '</s>'), settings.token('cls_token', '<s>')),
  specials: ROBERTA_SPECIALS,
})

const deberta: Builder = (_, model, settings) => {
  const [cls, sep] = [settings.token('cls_token', '[CLS]'), settings.token('sep_token', '[SEP]')]
  return {
    model: bytePairs(model),
    normalizer: null,
    preTokenizer: byteLevel(settings),
    postProcessor: template([cls, 'A', sep, sep, 'B', sep], [0, 0, 0, 0, 0, 0]),
    specials: DEBERTA_SPECIALS,
  }
}

const gpt2: Builder = (_, model, settings) => ({
  model: bytePairs(model),
  normalizer: null,
  preTokenizer: byteLevel(settings),
  specials: { unk_token: ENDOFTEXT, bos_token: ENDOFTEXT, eos_token: ENDOFTEXT },
})

const gptNeoX: Builder = (_, model, settings) => ({
  model: bytePairs(model),
  normalizer: { type: 'NFC' },
  preTokenizer: byteLevel(settings),
  // It builds a template of its own, in which tokenizer.json's flags for a beginning and an end are not kept.
  postProcessor: template(['A', 'B'], [0, 1]),
  specials: { unk_token: ENDOFTEXT, bos_token: ENDOFTEXT, eos_token: ENDOFTEXT, pad_token: '<|padding|>' },
})

/** PRETOKENIZE_REGEX of Qwen2Tokenizer. */
const QWEN_WORDS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const qwen2: Builder = (_, model, settings) => ({
  model: bytePairs(model),
  normalizer: { type: 'NFC' },
  preTokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: QWEN_WORDS }, behavior: 'Isolated', invert: false },
      { ...byteLevel(settings), use_regex: false },
    ],
  },
  specials: { unk_token: ENDOFTEXT, eos_token: ENDOFTEXT, pad_token: ENDOFTEXT },
})

const llama: Builder = (_, model, settings) => {
  const prefix = settings.flag('add_prefix_space', true)
  const scheme = prefix ? (settings.flag('legacy', false) ? 'always' : 'first') : 'never'
  return {
    model: bytePairs(model, { fuse_unk: true, byte_fallback: true }),
    normalizer: null,
    preTokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme, split: false },
    specials: { unk_token: '<unk>', bos_token: '<s>', eos_token: '</s>' },
  }
}

const gemma: Builder = (_, model, settings) => ({
  model: bytePairs(model, { fuse_unk: true, byte_fallback: true, unk_token: settings.token('unk_token', '<unk>') }),
  normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
  preTokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
  specials: { unk_token: '<unk>', bos_token: '<bos>', eos_token: '<eos>', pad_token: '<pad>', mask_token: '<mask>' },
})

function unigram({ vocab }: Json, unknown: number): Json {
  return { type: 'Unigram', unk_id: unknown, byte_fallback: false, vocab }
}

function placeOf({ vocab }: Json, token: string): number {
  return Array.isArray(vocab) ? vocab.findIndex((entry) => Array.isArray(entry) && entry[0] === token) : -1
}

/** Words at white space, each begun by ▁. */
function metaspaceWords(settings: Settings): Json {
  const scheme = settings.flag('add_prefix_space', true) ? 'always' : 'never'
  const pretokenizers = [
    { type: 'WhitespaceSplit' },
    { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme, split: true },
  ]
  return { type: 'Sequence', pretokenizers }
}

/** The first Precompiled among tokenizer.json's normalisers; of the others these classes keep none. */
function precompiled({ normalizer }: Json): Json | null {
  const { type, normalizers } = (normalizer ?? {}) as Json
  const steps: unknown[] = type === 'Sequence' && Array.isArray(normalizers) ? normalizers : [normalizer ?? {}]
  return (steps.find((step) => (step as Json).type === 'Precompiled') as Json | undefined) ?? null
}

const xlmRoberta: Builder = (definition, model, settings) => {
  const [bos, eos] = [settings.token('bos_token', '<s>'), settings.token('eos_token', '</s>')]
  return {
    model: unigram(model, 3),
    normalizer: precompiled(definition),
    preTokenizer: metaspaceWords(settings),
    postProcessor: template([bos, 'A', eos, eos, 'B', eos], [0, 0, 0, 0, 0, 0]),
    specials: ROBERTA_SPECIALS,
  }
}

const camembert: Builder = (definition, model, settings) => ({
  ...xlmRoberta(definition, model, settings),
  model: unigram(model, Math.max(0, placeOf(model, settings.token('unk_token', '<unk>')))),
})

const albert: Builder = (definition, model, settings) => {
  const plain = precompiled(definition)
  const accents = settings.flag('keep_accents', false) ? [] : [{ type: 'NFKD' }, { type: 'StripAccents' }]
  return {
    model: unigram(model, 1),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Replace', pattern: { String: '``' }, content: '"' },
        { type: 'Replace', pattern: { String: "''" }, content: '"' },
        ...accents,
        ...(settings.flag('do_lower_case', true) ? [{ type: 'Lowercase' }] : []),
        ...(plain ? [plain] : []),
      ],
    },
    preTokenizer: metaspaceWords(settings),
    postProcessor: pairOfTwo(settings.token('cls_token', '[CLS]'), settings.token('sep_token', '[SEP]')),
    specials: { ...DEBERTA_SPECIALS, unk_token: '<unk>', pad_token: '<pad>' },
  }
}

const debertaV2: Builder = (_, model, settings) => {
  const { vocab } = model
  const unknown = settings.token('unk_token', '[UNK]')
  const place = placeOf(model, unknown)
  const isThere = Array.isArray(vocab) && place >= 0 && (vocab[place] as unknown[])[1] === 0
  const scheme = settings.flag('add_prefix_space', true) ? 'always' : 'first'
  const words = { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme, split: true }
  return {
    model: unigram(model, isThere ? place : settings.number('unk_id', 1)),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        ...(settings.flag('do_lower_case', false) ? [{ type: 'Lowercase' }] : []),
        { type: 'Replace', pattern: { Regex: '\\s{2,}|[\\n\\r\\t]' }, content: ' ' },
        { type: 'NFC' },
        { type: 'Strip', strip_left: false, strip_right: true },
      ],
    },
    preTokenizer: settings.flag('split_by_punct', false)
      ? { type: 'Sequence', pretokenizers: [{ type: 'Punctuation', behavior: 'Isolated' }, words] }
      : words,
    postProcessor: pairOfTwo(settings.token('cls_token', '[CLS]'), settings.token('sep_token', '[SEP]')),
    specials: DEBERTA_SPECIALS,
  }
}

/** By class: the model type that its vocabulary has to be of, and how it is built. */
const CLASSES: Readonly<Record<string, readonly [modelType: string, build: Builder]>> = {
  AlbertTokenizer: ['Unigram', albert],
  BertTokenizer: ['WordPiece', bert],
  CamembertTokenizer: ['Unigram', camembert],
  DebertaTokenizer: ['BPE', deberta],
  DebertaV2Tokenizer: ['Unigram', debertaV2],
  DistilBertTokenizer: ['WordPiece', bert],
  GPT2Tokenizer: ['BPE', gpt2],
  GPTNeoXTokenizer: ['BPE', gptNeoX],
  GemmaTokenizer: ['BPE', gemma],
  LlamaTokenizer: ['BPE', llama],
  MPNetTokenizer: ['WordPiece', mpnet],
  Qwen2Tokenizer: ['BPE', qwen2],
  RobertaTokenizer: ['BPE', roberta],
  XLMRobertaTokenizer: ['Unigram', xlmRoberta],
}

export interface Rebuilt {
  readonly definition: Json
  readonly postProcessor: ((idOf: IdOf) => Json) | undefined
  readonly specials: Readonly<Record<string, string>>
  /** The class keeps none of tokenizer.json's added tokens but those that it is given again. */
  readonly isRebuilt: boolean
}

/**
 * @param name as `tokenizerClassOf` gives it
 * @throws Error that names a class that is not known, or what does not fit it
 */
export function rebuild(name: string, definition: Json, settings: Json): Rebuilt {
  if (name === PLAIN_CLASS) return { definition, postProcessor: undefined, specials: {}, isRebuilt: false }
  const known = CLASSES[name]
  if (known === undefined)
    throw new Error(`tokenizer_class ${name} builds a tokeniser of its own around tokenizer.json, and is not known`)
  const [wanted, build] = known
  const model = (definition.model ?? {}) as Json
  const found = model.type ?? (Array.isArray(model.vocab) ? 'Unigram' : 'merges' in model ? 'BPE' : 'WordPiece')
  if (found !== wanted)
    throw new Error(
      `tokenizer_class ${name} wants a vocabulary of ${wanted}, that of tokenizer.json is of ${String(found)}`,
    )
  const {
    model: built,
    normalizer,
    preTokenizer,
    postProcessor,
    specials,
  } = build(definition, model, new Settings(settings))
  return {
    definition: { ...definition, model: built, normalizer, pre_tokenizer: preTokenizer },
    postProcessor,
    specials,
    isRebuilt: true,
  }
}
