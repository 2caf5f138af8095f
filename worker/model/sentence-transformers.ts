/**
 * What sentence-transformers (6) writes beside a model and reads again: modules.json, config_sentence_transformers.json,
 * sentence_bert_config.json. What it would do and cannot be done here is refused by name. After `BaseModel._load_modules`,
 * `Transformer.__init__` and `CrossEncoder._parse_model_config`.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { fault, readJson, readJsonIfThere } from './json-file.js'

/** Of all of them: a score may depend on each. */
export const SENTENCE_TRANSFORMERS_FILES = [
  'modules.json',
  'config_sentence_transformers.json',
  'sentence_bert_config.json',
  'sentence_roberta_config.json',
  'sentence_distilbert_config.json',
  'sentence_camembert_config.json',
  'sentence_albert_config.json',
  'sentence_xlm-roberta_config.json',
  'sentence_xlnet_config.json',
] as const

const settings = z.record(z.string(), z.unknown())

const modulesSchema = z.array(z.looseObject({ path: z.string().default(''), type: z.string() }))

const savedSchema = z.looseObject({
  model_type: z.string().default('SentenceTransformer'),
  activation_fn: z.string().nullish(),
  prompts: z.record(z.string(), z.string().nullable()).nullish(),
  default_prompt_name: z.string().nullish(),
  similarity_fn_name: z.string().nullish(),
})

const transformerSchema = z.looseObject({
  max_seq_length: z.int().positive().nullish(),
  do_lower_case: z.boolean().nullish(),
  transformer_task: z.string().default('feature-extraction'),
  tokenizer_args: settings.nullish(),
  processor_kwargs: settings.nullish(),
  processing_kwargs: z.record(z.string(), settings).nullish(),
  modality_config: z
    .looseObject({ message: z.looseObject({ format: z.enum(['flat', 'structured']).nullish() }).nullish() })
    .nullish(),
  query_length: z.int().nullish(),
  document_length: z.int().nullish(),
  query_expansion: z.unknown().nullish(),
})

const processingSchema = z.strictObject({
  max_length: z.int().positive().nullish(),
  truncation: z.union([z.literal(true), z.literal('longest_first')]).nullish(),
  padding: z.unknown().optional(),
  return_tensors: z.unknown().optional(),
})

export interface SavedModule {
  /** `Transformer`, `Pooling`: the last part of its name in Python. */
  readonly kind: string
  /** Its folder within the model's, empty for the model's own. */
  readonly path: string
}

/** What a folder says to sentence-transformers; of a folder that it did not save, nothing. */
export interface SavedSettings {
  /** undefined where the folder has none, or was saved as a model of another kind, whose modules are not taken over. */
  readonly modules: readonly SavedModule[] | undefined
  readonly task: string | undefined
  /** Python's name of the activation, null where it is left to config.json. */
  readonly activation: string | null
  readonly prompts: Readonly<Record<string, string | null>>
  readonly defaultPrompt: string | null
  readonly similarity: string | null
  /** Tokens of a pair or a text. */
  readonly maxTokens: number | undefined
  /** Texts are put into lower case before anything else. */
  readonly lowercase: boolean
  /** How a chat template is given a text; null where pairs are no messages, undefined where nothing is said. */
  readonly messageFormat?: 'flat' | 'structured' | null | undefined
  /** What a chat template is given beside the messages. */
  readonly templateVariables?: Readonly<Record<string, unknown>>
  /** What is laid over tokenizer_config.json. */
  readonly tokenizer: Readonly<Record<string, unknown>>
}

const NOTHING: SavedSettings = Object.freeze({
  modules: undefined,
  task: undefined,
  activation: null,
  prompts: {},
  defaultPrompt: null,
  similarity: null,
  maxTokens: undefined,
  lowercase: false,
  tokenizer: {},
})

export type SavedKind = 'CrossEncoder' | 'SentenceTransformer'

/**
 * @param kind what the folder is loaded as
 * @throws RankmillError `invalid_model`, naming the file and what is not known of it
 */
export async function readSavedSettings(folder: string, kind: SavedKind): Promise<SavedSettings> {
  const listed = await readJsonIfThere(folder, 'modules.json', modulesSchema)
  if (!listed) return NOTHING
  const saved = await readJsonIfThere(folder, 'config_sentence_transformers.json', savedSchema)
  if ((saved?.model_type ?? 'SentenceTransformer') !== kind) return NOTHING
  const foreign = listed.find(({ type }) => !type.startsWith('sentence_transformers.'))
  if (foreign)
    throw fault(join(folder, 'modules.json'), `${foreign.type} is code of the folder's own, which is never run`)
  const modules = listed.map(({ type, path }) => ({ kind: type.split('.').at(-1) ?? type, path }))
  const [first] = modules
  if (first?.kind !== 'Transformer')
    throw fault(
      join(folder, 'modules.json'),
      `the first module is ${first?.kind ?? 'missing'}, where only Transformer is known`,
    )
  if (first.path !== '')
    throw fault(
      join(folder, 'modules.json'),
      `the Transformer is in the folder "${first.path}", and only a model's own is read`,
    )
  const [name, transformer] = await readTransformer(folder)
  const file = join(folder, name)
  for (const field of ['query_length', 'document_length', 'query_expansion'] as const) {
    if (transformer[field] !== undefined && transformer[field] !== null) throw fault(file, `${field}: is not known`)
  }
  const tokenizer = { ...transformer.tokenizer_args, ...transformer.processor_kwargs }
  const { model_max_length: passed } = tokenizer
  const limits = [
    transformer.max_seq_length,
    typeof passed === 'number' ? passed : undefined,
    processingLimit(file, transformer),
  ]
  const known = limits.filter((limit) => limit !== undefined && limit !== null)
  return Object.freeze({
    modules,
    task: transformer.transformer_task,
    activation: saved?.activation_fn ?? null,
    prompts: saved?.prompts ?? {},
    defaultPrompt: saved?.default_prompt_name ?? null,
    similarity: saved?.similarity_fn_name ?? null,
    maxTokens: known.length > 0 ? Math.min(...known) : undefined,
    lowercase: transformer.do_lower_case ?? false,
    ...(transformer.modality_config
      ? {
          messageFormat: transformer.modality_config.message
            ? (transformer.modality_config.message.format ?? 'structured')
            : null,
        }
      : {}),
    templateVariables: templateVariables(file, transformer),
    tokenizer,
  })
}

async function readTransformer(folder: string): Promise<[name: string, settings: z.output<typeof transformerSchema>]> {
  for (const name of SENTENCE_TRANSFORMERS_FILES.slice(2)) {
    const found = await readJsonIfThere(folder, name, transformerSchema)
    if (found && Object.keys(found).length > 1) return [name, found]
  }
  return ['sentence_bert_config.json', transformerSchema.parse({})]
}

/** What is passed to the tokeniser with every call. */
function processingLimit(
  file: string,
  { processing_kwargs: passed }: z.output<typeof transformerSchema>,
): number | undefined {
  // Images and sounds are nobody's here.
  const { text, common } = passed ?? {}
  const { data, error } = processingSchema.safeParse({ ...text, ...common })
  const [issue] = error?.issues ?? []
  const field = issue?.path.join('.') || (issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : '')
  if (!data) throw fault(file, `processing_kwargs.text: ${field}: is not known so`)
  return data.max_length ?? undefined
}

/** Of what may be passed to a chat template, that which says how the result is tokenised (`_APPLY_CHAT_TEMPLATE_TOP_LEVEL_KWARGS`). */
const TEMPLATE_SETTINGS = new Set([
  ...['padding', 'truncation', 'max_length', 'return_tensors', 'padding_side', 'tokenizer_kwargs', 'restore_suffix'],
  ...['continue_final_message', 'return_assistant_tokens_mask', 'chat_template', 'tokenize', 'return_dict'],
])

function templateVariables(
  file: string,
  { processing_kwargs: passed }: z.output<typeof transformerSchema>,
): Record<string, unknown> {
  const variables = passed?.['chat_template'] ?? {}
  for (const name of Object.keys(variables))
    if (TEMPLATE_SETTINGS.has(name)) throw fault(file, `processing_kwargs.chat_template.${name}: is not known`)
  return variables
}

/** Reads a module's own configuration. */
export function readModuleConfig<T>(folder: string, { path }: SavedModule, schema: z.ZodType<T>): Promise<T> {
  return readJson(folder, join(path, 'config.json'), schema)
}
