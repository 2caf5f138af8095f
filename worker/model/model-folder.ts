/** What the files of a model folder say, and whether they fit together. Every fault is an `invalid_model` that names the file. */
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { DTYPES, type Dtype } from '../../shared/protocol/dtype.js'
import { type OnnxFile, readOnnxFile } from './onnx-file.js'

export { DTYPES, type Dtype }

/** Names of transformers.js, in its folder and beside config.json, for folders without rankmill.json. */
const FILES: Readonly<Record<Dtype, readonly string[]>> = {
  fp32: ['model.onnx'],
  fp16: ['model_fp16.onnx'],
  int8: ['model_int8.onnx', 'model_quantized.onnx'],
  int4: ['model_int4.onnx', 'model_q4.onnx'],
}

const activationSchema = z.string().optional()

const configSchema = z.looseObject({
  model_type: z.string().default(''),
  max_position_embeddings: z.int().positive().optional(),
  pad_token_id: z.int().nonnegative().nullish(),
  id2label: z.record(z.string(), z.unknown()).optional(),
  num_labels: z.int().positive().optional(),
  sentence_transformers: z.looseObject({ activation_fn: activationSchema }).nullish(),
  sbert_ce_default_activation_function: activationSchema.nullable(),
})
export type ModelConfig = z.output<typeof configSchema>

const tokenizerSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id: z.int().nonnegative(), content: z.string() })).default([]),
  model: z.looseObject({ vocab: z.union([z.record(z.string(), z.int()), z.array(z.unknown())]) }),
})

const tokenizerConfigSchema = z.looseObject({
  model_max_length: z.number().positive().nullish(),
  pad_token: z.union([z.string(), z.looseObject({ content: z.string() })]).nullish(),
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
  batch_invariant: z.union([z.boolean(), z.partialRecord(z.enum(DTYPES), z.unknown())]).optional(),
  /** Of a bi-encoder: the output that holds one vector a text, and what it is. */
  embedding: z.looseObject({ output: z.string(), dimensions: z.int().positive(), normalised: z.boolean() }).optional(),
  /** Final score = z(model) + weight * z(first stage), by the first stage's name; z over the list. */
  fusion: z.looseObject({ weights: z.record(z.string(), z.number().nonnegative()) }).optional(),
  /** By another model's name: its logit = scale * this one's + offset, as near as a line comes. */
  calibrations: z.record(z.string(), z.strictObject({ scale: z.number().positive(), offset: z.number() })).optional(),
  /** Hex digests of ONNX files: some read their weights out of others, at fixed places. */
  sha256: z.record(z.string(), z.string()).default({}),
})
/** rankmill.json: what the models that ship say of themselves beyond Hugging Face's files. */
export type Manifest = z.output<typeof manifestSchema>

export interface TokenizerFacts {
  /** One more than the highest id. */
  readonly vocabularySize: number
  readonly padId: number | undefined
  /** Of tokenizer_config.json; undefined where it is absent or a stand-in for "no limit". */
  readonly maxLength: number | undefined
}

export function fault(file: string, what: string, cause?: unknown): RankmillError {
  return new RankmillError('invalid_model', `${file}: ${what}`, {}, { cause })
}

export async function readJson<T>(folder: string, name: string, schema: z.ZodType<T>): Promise<T> {
  const file = join(folder, name)
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    const missing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT'
    const what = missing
      ? 'the file is missing'
      : `the file is damaged: ${cause instanceof Error ? cause.message : cause}`
    throw fault(file, what, cause)
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw fault(file, `${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'not valid'}`)
}

export async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false
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

/** tokenizer.json and, if there, tokenizer_config.json. */
export async function readTokenizerFacts(folder: string): Promise<TokenizerFacts> {
  const { added_tokens: added, model } = await readJson(folder, 'tokenizer.json', tokenizerSchema)
  const hasConfig = await isFile(join(folder, 'tokenizer_config.json'))
  const config = hasConfig ? await readJson(folder, 'tokenizer_config.json', tokenizerConfigSchema) : {}
  const { vocab } = model
  let highest = Array.isArray(vocab) ? vocab.length - 1 : -1
  if (!Array.isArray(vocab)) for (const id of Object.values(vocab)) highest = Math.max(highest, id)
  for (const { id } of added) highest = Math.max(highest, id)
  const padToken = typeof config.pad_token === 'string' ? config.pad_token : config.pad_token?.content
  const padId = added.find(({ content }) => content === padToken)?.id
  const limit = config.model_max_length ?? undefined
  // transformers writes 1e30 where a tokeniser knows no limit.
  return { vocabularySize: highest + 1, padId, maxLength: limit !== undefined && limit < 1e9 ? limit : undefined }
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

/** Tokens of a pair, special ones included, that the model has positions for. */
export function maxTokensOf(config: ModelConfig, tokenizer: TokenizerFacts, manifest: Manifest | undefined): number {
  // RoBERTa's positions begin after the padding id (fairseq); MPNet's too.
  const offset = /roberta|camembert|mpnet|longformer/.test(config.model_type) ? (config.pad_token_id ?? 1) + 1 : 0
  const positions = config.max_position_embeddings === undefined ? undefined : config.max_position_embeddings - offset
  const limits = [positions, tokenizer.maxLength, manifest?.max_tokens].filter((limit) => limit !== undefined)
  return limits.length > 0 ? Math.min(...limits) : 512
}

/**
 * The activation that sentence-transformers' CrossEncoder would use (CrossEncoder.get_default_activation_fn): the one that
 * config.json names, else a sigmoid for one label, else none.
 */
export function activationOf(folder: string, config: ModelConfig, labels: number): 'sigmoid' | 'identity' {
  const named = config.sentence_transformers?.activation_fn ?? config.sbert_ce_default_activation_function ?? undefined
  // Functions from outside torch are not imported there either without trust_remote_code.
  if (named === undefined || !named.startsWith('torch.')) return labels === 1 ? 'sigmoid' : 'identity'
  if (named.endsWith('.Sigmoid')) return 'sigmoid'
  if (named.endsWith('.Identity')) return 'identity'
  throw fault(join(folder, 'config.json'), `the activation function ${named} is not known (Sigmoid and Identity are)`)
}

interface Head {
  readonly logits: 1 | 2
  readonly usesTokenTypes: boolean
}

const INPUTS = new Set(['input_ids', 'attention_mask', 'token_type_ids'])
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

/** Checks a graph's inputs; whether it asks for token types. */
export function usesTokenTypes(path: string, graph: OnnxFile): boolean {
  const names = graph.inputs.map(({ name }) => name)
  for (const name of ['input_ids', 'attention_mask']) {
    if (!names.includes(name)) throw fault(path, `the graph has no input "${name}" (inputs: ${names.join(', ')})`)
  }
  for (const { name, type } of graph.inputs) {
    if (!INPUTS.has(name)) throw fault(path, `the graph wants an input "${name}" that an encoder of text does not have`)
    if (type !== INT64) throw fault(path, `the input "${name}" is not int64`)
  }
  return names.includes('token_type_ids')
}

/** The inputs and the head of a cross-encoder's graph, checked against config.json. */
export function headOf(path: string, graph: OnnxFile, config: ModelConfig): Head {
  const types = usesTokenTypes(path, graph)
  const output = graph.outputs.find(({ name }) => name === 'logits') ?? graph.outputs[0]
  if (!output) throw fault(path, 'the graph has no output')
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
  if (width !== 1 && width !== 2)
    throw fault(path, `the head has ${width} outputs; a cross-encoder has 1, or 2 for no and yes`)
  return { logits: width, usesTokenTypes: types }
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
