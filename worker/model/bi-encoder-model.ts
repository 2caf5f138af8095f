/** A bi-encoder at hand: a folder in sentence-transformers' layout, with a graph in onnx/. */
import { join } from 'node:path'
import { z } from 'zod'
import { chooseDtype, type ModelFiles, type OpenModelOptions } from './model.js'
import { fingerprintOf } from './model-fingerprint.js'
import * as files from './model-folder.js'
import { locateModel } from './model-reference.js'
import type { OnnxFile } from './onnx-file.js'

/** Gives a text an embedding. Frozen plain data: it is sent to threads as it is. */
export interface BiEncoderModel extends ModelFiles {
  readonly kind: 'bi-encoder'
  /** Name of the graph's output: embeddings [n, dimensions], or hidden states [n, tokens, dimensions] to be pooled. */
  readonly output: string
  readonly pooling: 'mean' | 'cls'
  /** What is put before a text, depending on what it is (`query: `, `passage: `). */
  readonly prompts: { readonly query: string; readonly passage: string }
}

const poolingSchema = z.looseObject({
  pooling_mode_mean_tokens: z.boolean().default(false),
  pooling_mode_cls_token: z.boolean().default(false),
})
const textSchema = z.looseObject({ max_seq_length: z.int().positive().nullish() })
const promptsSchema = z.looseObject({ prompts: z.record(z.string(), z.string()).nullish() })

const OUTPUTS = ['sentence_embedding', 'last_hidden_state', 'token_embeddings']

/**
 * Opens a bi-encoder: finds its folder, and reads and checks everything but the weights. Where no file says otherwise,
 * tokens are pooled by their mean.
 *
 * @param reference name of a shipped model, a folder, or a hub id
 * @throws RankmillError `unknown_model`, `invalid_model` (naming file and fault)
 */
export async function openBiEncoder(reference: string, options: OpenModelOptions): Promise<BiEncoderModel> {
  const { name, folder } = await locateModel(reference, options)
  const manifest = await files.readManifest(folder)
  if (manifest && manifest.kind !== 'bi-encoder') {
    throw files.fault(join(folder, 'rankmill.json'), `a ${manifest.kind} gives no embeddings`)
  }
  const config = await files.readConfig(folder)
  const tokenizer = await files.readTokenizerFacts(folder)
  const present = await files.findDtypes(folder, manifest)
  const dtype = chooseDtype(folder, options, present, manifest)
  const modelPath = join(folder, present[dtype] ?? '')
  const graph = await files.readGraph(modelPath)
  files.checkVocabulary(folder, tokenizer, files.embeddingRows(graph))
  const { max_seq_length: maxLength } = await readIfThere(folder, 'sentence_bert_config.json', textSchema)
  const { prompts } = await readIfThere(folder, 'config_sentence_transformers.json', promptsSchema)
  return Object.freeze({
    name,
    folder,
    dtype,
    modelPath,
    kind: 'bi-encoder',
    maxTokens: Math.min(files.maxTokensOf(config, tokenizer, manifest), maxLength ?? Number.POSITIVE_INFINITY),
    usesTokenTypes: files.usesTokenTypes(modelPath, graph),
    output: outputOf(modelPath, graph),
    pooling: await poolingOf(folder),
    prompts: { query: prompts?.['query'] ?? '', passage: prompts?.['passage'] ?? prompts?.['document'] ?? '' },
    padId: tokenizer.padId ?? config.pad_token_id ?? 0,
    fingerprint: await fingerprintOf(folder, modelPath, graph.externalFiles, dtype, options.cacheDir),
    batchInvariant: files.isBatchInvariant(manifest, dtype, graph),
  })
}

function outputOf(path: string, { outputs }: OnnxFile): string {
  const output =
    OUTPUTS.map((wanted) => outputs.find(({ name }) => name === wanted)).find((found) => found) ?? outputs[0]
  if (!output) throw files.fault(path, 'the graph has no output')
  const { name, shape } = output
  if (name === 'logits' || (shape.length !== 2 && shape.length !== 3)) {
    throw files.fault(path, `the output "${name}" has ${shape.length} dimensions: it is not that of a bi-encoder`)
  }
  return name
}

async function poolingOf(folder: string): Promise<'mean' | 'cls'> {
  const name = join('1_Pooling', 'config.json')
  if (!(await files.isFile(join(folder, name)))) return 'mean'
  const { pooling_mode_mean_tokens: mean, pooling_mode_cls_token: cls } = await files.readJson(
    folder,
    name,
    poolingSchema,
  )
  if (mean === cls) throw files.fault(join(folder, name), 'the pooling is neither of the mean nor of the first token')
  return mean ? 'mean' : 'cls'
}

async function readIfThere<T extends object>(folder: string, name: string, schema: z.ZodType<T>): Promise<Partial<T>> {
  return (await files.isFile(join(folder, name))) ? files.readJson(folder, name, schema) : {}
}
