/** What the files of a model folder say, and whether they fit together. Every fault is an `invalid_model` that names the file. */
import { join } from 'node:path'
import { z } from 'zod'
import { DTYPES, type Dtype } from '../../shared/protocol/dtype.js'
import { fault, isFile, readJson, readJsonIfThere } from './json-file.js'
import { type OnnxFile, readOnnxFile } from './onnx-file.js'
import type { SavedSettings } from './sentence-transformers.js'

export { DTYPES, type Dtype }

/** Names of transformers.js, in its folder and beside config.json, for folders without rankmill.json. */
const FILES: Readonly<Record<Dtype, readonly string[]>> = {
  fp32: ['model.onnx'],
  fp16: ['model_fp16.onnx'],
  int8: ['model_int8.onnx', 'model_quantized.onnx'],
  int4: ['model_int4.onnx', 'model_q4.onnx'],
}

/** null, -1 and NaN (read as null) stand for "none" in fields that count something. */
const count = z
  .number()
  .nullish()
  .transform((value) => (value === null || value === undefined || value < 0 ? undefined : value))

const configSchema = z
  .looseObject({
    model_type: z
      .string()
      .nullish()
      .transform((type) => type ?? ''),
    architectures: z.array(z.string()).nullish(),
    max_position_embeddings: count,
    /** What GPT-2 and NomicBERT call it. */
    n_positions: count,
    /** Of BERT and its kin, where positions are not rows of a table; of DeBERTa, whether they are. */
    position_embedding_type: z.string().nullish(),
    position_biased_input: z.boolean().nullish(),
    pad_token_id: count,
    vocab_size: count,
    id2label: z.record(z.string(), z.unknown()).nullish(),
    num_labels: count,
    /** Classes that are code of the folder's own. */
    auto_map: z.record(z.string(), z.unknown()).nullish(),
    sentence_transformers: z.looseObject({ activation_fn: z.string().nullish() }).nullish(),
    sbert_ce_default_activation_function: z.string().nullish(),
  })
  .transform(({ n_positions, ...config }) => ({
    ...config,
    max_position_embeddings: (config.max_position_embeddings ?? n_positions) || undefined,
  }))
export type ModelConfig = z.output<typeof configSchema>

const tokenizerSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id: z.int().nonnegative(), content: z.string() })).default([]),
  padding: z.looseObject({ pad_id: z.int().nonnegative().optional() }).nullish(),
  model: z.looseObject({ vocab: z.union([z.record(z.string(), z.int()), z.array(z.unknown())]) }),
})

const tokenSchema = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish()
const tokenizerConfigSchema = z.looseObject({
  model_max_length: z.number().nullish(),
  max_len: z.number().nullish(),
  pad_token: tokenSchema,
})

const manifestSchema = z.looseObject({
  name: z.string(),
  version: z.string().optional(),
  kind: z.string().default('cross-encoder'),
  dtypes: z.partialRecord(z.enum(DTYPES), z.string()),
  default_dtype: z.enum(DTYPES).optional(),
  max_tokens: z.int().positive().optional(),
  exits: z.array(z.unknown()).default([]),
  licence: z.string().optional(),
  /** Of a head with several outputs, the one that is the score, counted from 0. */
  label: z.int().nonnegative().optional(),
  batch_invariant: z.union([z.boolean(), z.partialRecord(z.enum(DTYPES), z.unknown())]).optional(),
  /** Of a bi-encoder: the output that holds one vector a text, and what it is. */
  embedding: z.looseObject({ output: z.string(), dimensions: z.int().positive(), normalised: z.boolean() }).optional(),
  /** Final score = z(model) + weight * z(first stage), by the first stage's name; z over the list. */
  fusion: z.looseObject({ weights: z.record(z.string(), z.number().nonnegative()) }).optional(),
  /** By another model's name: its logit = scale * this one's + offset, as near as a line comes. */
  calibrations: z.record(z.string(), z.strictObject({ scale: z.number().positive(), offset: z.number() })).optional(),
  /** Of a causal model whose head has two columns: the token ids that they are of, of "no" and of "yes". */
  head_tokens: z.tuple([z.int().nonnegative(), z.int().nonnegative()]).optional(),
  /** Hex digests of ONNX files: some read their weights out of others, at fixed places. */
  sha256: z.record(z.string(), z.string()).default({}),
})
/** rankmill.json: what the models that ship say of themselves beyond Hugging Face's files. */
export type Manifest = z.output<typeof manifestSchema>

export interface TokenizerFacts {
  /** One more than the highest id. */
  readonly vocabularySize: number
  readonly padId: number | undefined
  /** The id of a token, undefined where there is none. */
  readonly idOf: (token: string) => number | undefined
  /** Of tokenizer_config.json; undefined where it is absent or a stand-in for "no limit". */
  readonly maxLength: number | undefined
}

/** config.json. */
export function readConfig(folder: string): Promise<ModelConfig> {
  return readJson(folder, 'config.json', configSchema)
}

/** rankmill.json; undefined in folders that are not made for Rankmill. */
export async function readManifest(folder: string): Promise<Manifest | undefined> {
  if (!(await isFile(join(folder, 'rankmill.json')))) return undefined
  return await readJson(folder, 'rankmill.json', manifestSchema)
}

/** tokenizer.json and, if there, tokenizer_config.json and special_tokens_map.json. */
export async function readTokenizerFacts(folder: string): Promise<TokenizerFacts> {
  const { added_tokens: added, model, padding } = await readJson(folder, 'tokenizer.json', tokenizerSchema)
  const config = await readJsonIfThere(folder, 'tokenizer_config.json', tokenizerConfigSchema)
  const special = await readJsonIfThere(folder, 'special_tokens_map.json', z.looseObject({ pad_token: tokenSchema }))
  const { vocab } = model
  let highest = Array.isArray(vocab) ? vocab.length - 1 : -1
  if (!Array.isArray(vocab)) for (const id of Object.values(vocab)) highest = Math.max(highest, id)
  for (const { id } of added) highest = Math.max(highest, id)
  const named = special?.pad_token ?? config?.pad_token
  const padToken = typeof named === 'string' ? named : named?.content
  const idOf = (token: string) => added.find(({ content }) => content === token)?.id ?? idIn(vocab, token)
  const padId = (padToken === undefined ? undefined : idOf(padToken)) ?? padding?.pad_id
  const limit = config?.model_max_length ?? config?.max_len ?? undefined
  // transformers writes 1e30 where a tokeniser knows no limit.
  const isLimit = limit !== undefined && limit > 0 && limit < 1e9
  return { vocabularySize: highest + 1, padId, idOf, maxLength: isLimit ? limit : undefined }
}

/** Of Unigram models the vocabulary is a list of tokens with their weights. */
function idIn(vocab: Record<string, number> | readonly unknown[], token: string): number | undefined {
  if (!Array.isArray(vocab)) return Object.hasOwn(vocab, token) ? (vocab as Record<string, number>)[token] : undefined
  const place = vocab.findIndex((entry) => Array.isArray(entry) && entry[0] === token)
  return place < 0 ? undefined : place
}

/** The ONNX files by number format, relative to the folder: those that rankmill.json names, else those that are there. */
export async function findDtypes(
  folder: string,
  manifest: Manifest | undefined,
): Promise<Partial<Record<Dtype, string>>> {
  const found: Partial<Record<Dtype, string>> = {}
  for (const dtype of DTYPES) {
    const declared = manifest?.dtypes[dtype]
    const names = manifest
      ? declared === undefined
        ? []
        : [declared]
      : FILES[dtype].flatMap((name) => [`onnx/${name}`, name])
    for (const name of names) {
      if (found[dtype] === undefined && (await isFile(join(folder, name)))) found[dtype] = name
    }
  }
  return found
}

/**
 * Tokens of a pair, special ones included: as many as the model has positions for, and no more than the tokeniser or
 * sentence-transformers, whose own limit takes the place of the tokeniser's, would keep.
 */
export function maxTokensOf(
  config: ModelConfig,
  tokenizer: TokenizerFacts,
  manifest: Manifest | undefined,
  saved?: SavedSettings,
): number {
  const { max_position_embeddings: rows } = config
  // A length that was saved goes before the positions; where those are rows of a table, there are no more to be had.
  const isBounded = rows !== undefined && (saved?.maxTokens === undefined || hasPositionTable(config))
  const positions = isBounded ? rows - firstPositionOf(config) : undefined
  const limits = [positions, saved?.maxTokens ?? tokenizer.maxLength, manifest?.max_tokens]
  const known = limits.filter((limit) => limit !== undefined)
  return known.length > 0 ? Math.min(...known) : 512
}

/**
 * The activation that sentence-transformers' CrossEncoder would use (get_default_activation_fn): the one that
 * config_sentence_transformers.json names where it is read, else the one of config.json, else a sigmoid for one label, else
 * none. Functions from outside torch are not imported there either without trust_remote_code.
 */
export function activationOf(
  folder: string,
  config: ModelConfig,
  labels: number,
  saved?: SavedSettings,
): 'sigmoid' | 'identity' {
  const ofConfig =
    config.sentence_transformers && 'activation_fn' in config.sentence_transformers
      ? config.sentence_transformers.activation_fn
      : config.sbert_ce_default_activation_function
  const named = [
    ['config_sentence_transformers.json', saved?.activation],
    ['config.json', ofConfig],
  ] as const
  for (const [file, name] of named) {
    if (!name?.startsWith('torch.')) continue
    if (name.endsWith('.Sigmoid')) return 'sigmoid'
    if (name.endsWith('.Identity')) return 'identity'
    throw fault(join(folder, file), `the activation function ${name} is not known (Sigmoid and Identity are)`)
  }
  return labels === 1 ? 'sigmoid' : 'identity'
}

/** RoBERTa's positions begin after the padding id (fairseq); MPNet's too. */
export function firstPositionOf({ model_type: type, pad_token_id: padId }: ModelConfig): number {
  return /roberta|camembert|mpnet|longformer/.test(type) ? (padId ?? 1) + 1 : 0
}

/** Model types whose positions are turned into queries and keys: max_position_embeddings is what they were trained with. */
const ROTARY = /^(modernbert|nomic_bert|eurobert|qwen|llama|gemma|mistral|ministral|mixtral|phi|granite|olmo|smollm)/

function hasPositionTable(config: ModelConfig): boolean {
  const { model_type: type, position_embedding_type: kind, position_biased_input: isBiased } = config
  if (/^deberta/.test(type)) return isBiased !== false
  return !ROTARY.test(type) && (kind == null || /absolute|relative_key/.test(kind))
}

interface Head {
  /** Outputs for a pair. */
  readonly logits: number
  /** The one that is the score, where that is said. */
  readonly label?: number
  readonly usesTokenTypes: boolean
  /** Name of the graph's output that holds the logits. */
  readonly output: string
  /** Of the graph's inputs, those that are not int64. */
  readonly narrowInputs: readonly string[]
  readonly usesPositions: boolean
}

const INPUTS = new Set(['input_ids', 'attention_mask', 'token_type_ids', 'position_ids'])
const INT32 = 6
const INT64 = 7

/** Reads a graph's structure. */
export async function readGraph(path: string): Promise<OnnxFile> {
  let graph: OnnxFile
  try {
    graph = await readOnnxFile(path)
  } catch (cause) {
    const missing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT'
    throw fault(path, missing ? 'the file is missing' : cause instanceof Error ? cause.message : String(cause), cause)
  }
  for (const name of graph.externalFiles) {
    if (!(await isFile(join(path, '..', name))))
      throw fault(path, `the file "${name}" that holds its weights is missing beside it`)
  }
  return graph
}

/** Checks a graph's inputs, and says which of them there are. */
export function inputsOf(
  path: string,
  graph: OnnxFile,
): Pick<Head, 'usesTokenTypes' | 'usesPositions' | 'narrowInputs'> {
  const names = graph.inputs.map(({ name }) => name)
  for (const name of ['input_ids', 'attention_mask']) {
    if (!names.includes(name)) throw fault(path, `the graph has no input "${name}" (inputs: ${names.join(', ')})`)
  }
  for (const { name, type } of graph.inputs) {
    if (!INPUTS.has(name)) throw fault(path, `the graph wants an input "${name}" that an encoder of text does not have`)
    if (type !== INT64 && type !== INT32) throw fault(path, `the input "${name}" is neither int64 nor int32`)
  }
  return {
    usesTokenTypes: names.includes('token_type_ids'),
    usesPositions: names.includes('position_ids'),
    narrowInputs: graph.inputs.filter(({ type }) => type === INT32).map(({ name }) => name),
  }
}

const FLOATS = new Set([1, 10])

/**
 * The inputs and the head of a cross-encoder's graph, checked against config.json.
 *
 * @param label the output that is the score, counted from 0; of heads with one output or two it need not be said
 */
export function headOf(path: string, graph: OnnxFile, config: ModelConfig, label?: number): Head {
  const inputs = inputsOf(path, graph)
  // Where none is called so, the score is the first output that may be one: hidden states may stand before it.
  const flat = graph.outputs.filter(({ shape, type }) => {
    return FLOATS.has(type) && (shape.length === 1 || (shape.length === 2 && (shape[1] ?? 1) <= 2))
  })
  const named = graph.outputs.find(({ name }) => name === 'logits')
  const output = named ?? flat[0] ?? graph.outputs[0]
  if (!output) throw fault(path, 'the graph has no output')
  if (!named && flat.length > 1) {
    const names = flat.map(({ name }) => name).join(', ')
    throw fault(path, `several outputs may be the score (${names}), and none is called "logits"`)
  }
  const { shape } = output
  if (shape.length > 2) {
    throw fault(
      path,
      `the output "${output.name}" has ${shape.length} dimensions: this is not the head of a cross-encoder`,
    )
  }
  const declared = config.id2label ? Object.keys(config.id2label).length : config.num_labels
  const width = shape.length === 1 ? 1 : (shape[1] ?? declared ?? 1)
  if (declared !== undefined && width !== declared) {
    throw fault(path, `the head has ${width} outputs, config.json says ${declared} labels`)
  }
  checkLabel(path, config, width, label)
  return { logits: width, ...(label === undefined ? {} : { label }), output: output.name, ...inputs }
}

/**
 * What config.json calls the outputs of the head, in their order.
 *
 * @returns undefined where config.json does not say how many there are
 */
export function labelsOf({ id2label, num_labels: count }: ModelConfig): string[] | undefined {
  const length = id2label ? Object.keys(id2label).length : count
  if (length === undefined) return undefined
  return Array.from({ length }, (_, i) => String(id2label?.[String(i)] ?? `LABEL_${i}`))
}

/** @throws RankmillError `invalid_model`, with the labels, where the score is one of several outputs and nobody says which */
export function checkLabel(path: string, config: ModelConfig, width: number, label: number | undefined): void {
  if (label === undefined ? width <= 2 : label < width) return
  const listed = (labelsOf(config) ?? Array.from({ length: width }, (_, i) => `LABEL_${i}`))
    .map((name, i) => `${i} ${name}`)
    .join(', ')
  const what =
    label === undefined
      ? 'one of them is the score, and nobody says which: `rankmill models add … --label NAME` does'
      : `there is no label ${label}`
  throw fault(path, `the head has ${width} outputs (${listed}); ${what}`)
}

/** How many token ids the graph knows, where its token embedding can be recognised. */
export function embeddingRows({ nodes, weights }: OnnxFile): number | undefined {
  const producer = new Map(nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)))
  const origin = (name: string): string => {
    const node = producer.get(name)
    const [first] = node?.inputs ?? []
    // Weights may be stored in fewer bits and widened; ids may be narrowed.
    return node && first !== undefined && /^(Cast|Identity|DequantizeLinear)$/.test(node.op) ? origin(first) : name
  }
  for (const { op, inputs } of nodes) {
    const fused = op === 'EmbedLayerNormalization'
    if (op !== 'Gather' && !fused) continue
    const [table, ids] = fused ? [inputs[2], inputs[0]] : [inputs[0], inputs[1]]
    if (table === undefined || ids === undefined || origin(ids) !== 'input_ids') continue
    const shape = weights.get(origin(table))
    if (shape?.length === 2) return shape[0]
  }
  return undefined
}

/** Every id that the tokeniser can give must have a row in the embedding. */
export function checkVocabulary(folder: string, tokenizer: TokenizerFacts, rows: number | undefined): void {
  const { vocabularySize } = tokenizer
  if (rows === undefined || vocabularySize <= rows) return
  const file = join(folder, 'tokenizer.json')
  throw fault(
    file,
    `it has ${vocabularySize} token ids, the model's embedding ${rows} rows: they do not belong together`,
  )
}

/**
 * Whether a pair's score is the same whatever the batch: as rankmill.json says, else unless the graph takes the range of
 * its activations over the whole batch (dynamic quantisation; up to 0.36 of a logit in the pilot).
 */
export function isBatchInvariant(manifest: Manifest | undefined, dtype: Dtype, graph: OnnxFile): boolean {
  const said = manifest?.batch_invariant
  const declared = typeof said === 'object' ? said[dtype] : said
  if (typeof declared === 'boolean') return declared
  return !graph.nodes.some(({ op }) => op === 'DynamicQuantizeLinear' || op === 'DynamicQuantizeMatMul')
}
