/** A bi-encoder at hand: a folder in sentence-transformers' layout, with a graph in onnx/. */
import { join } from 'node:path'
import { z } from 'zod'
import { fault, isFile, readJsonIfThere } from './json-file.js'
import { chooseDtype, type ModelFiles, type OpenModelOptions } from './model.js'
import { fingerprintOf } from './model-fingerprint.js'
import * as files from './model-folder.js'
import { CHAT_TEMPLATE } from './model-prompt.js'
import { locateModel } from './model-reference.js'
import type { OnnxFile } from './onnx-file.js'
import { readModuleConfig, readSavedSettings, type SavedSettings } from './sentence-transformers.js'

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
  pooling_mode: z.union([z.string(), z.array(z.string())]).nullish(),
  pooling_mode_cls_token: z.boolean().default(false),
  pooling_mode_max_tokens: z.boolean().default(false),
  pooling_mode_mean_tokens: z.boolean().default(false),
  pooling_mode_mean_sqrt_len_tokens: z.boolean().default(false),
  pooling_mode_weightedmean_tokens: z.boolean().default(false),
  pooling_mode_lasttoken: z.boolean().default(false),
  include_prompt: z.boolean().default(true),
})

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
    throw fault(join(folder, 'rankmill.json'), `a ${manifest.kind} gives no embeddings`)
  }
  const config = await files.readConfig(folder)
  const tokenizer = await files.readTokenizerFacts(folder)
  const present = await files.findDtypes(folder, manifest)
  const dtype = chooseDtype(folder, options, present, manifest)
  const modelPath = join(folder, present[dtype] ?? '')
  const graph = await files.readGraph(modelPath)
  files.checkVocabulary(folder, tokenizer, files.embeddingRows(graph))
  const saved = await readSavedSettings(folder, 'SentenceTransformer')
  refuseMessages(folder, saved)
  const prompts = promptsOf(saved)
  const { name: output, isPooled } = outputOf(modelPath, graph)
  refuseSimilarity(folder, saved)
  await refuseTemplate(folder, saved)
  const { usesPositions, ...inputs } = files.inputsOf(modelPath, graph)
  return Object.freeze({
    name,
    folder,
    dtype,
    modelPath,
    kind: 'bi-encoder',
    maxTokens: files.maxTokensOf(config, tokenizer, manifest, saved),
    ...inputs,
    ...(usesPositions ? { firstPosition: files.firstPositionOf(config) } : {}),
    output,
    pooling: isPooled ? 'mean' : await poolingOf(folder, saved, prompts),
    prompts,
    padId: tokenizer.padId ?? config.pad_token_id ?? 0,
    ...(await fingerprintOf(folder, modelPath, graph.externalFiles, dtype, options.cacheDir, manifest?.sha256)),
    batchInvariant: files.isBatchInvariant(manifest, dtype, graph),
  })
}

function outputOf(path: string, { outputs }: OnnxFile): { name: string; isPooled: boolean } {
  const output =
    OUTPUTS.map((wanted) => outputs.find(({ name }) => name === wanted)).find((found) => found) ?? outputs[0]
  if (!output) throw fault(path, 'the graph has no output')
  const { name, shape } = output
  if (name === 'logits' || (shape.length !== 2 && shape.length !== 3)) {
    throw fault(path, `the output "${name}" has ${shape.length} dimensions: it is not that of a bi-encoder`)
  }
  return { name, isPooled: shape.length === 2 }
}

/** As `encode_query` and `encode_document` choose them, and what folders of before those had in their place. */
function promptsOf({ prompts }: SavedSettings): BiEncoderModel['prompts'] {
  return { query: prompts.query ?? '', passage: prompts.document ?? prompts.passage ?? prompts.corpus ?? '' }
}

/** Of a model that was saved to read texts in a chat template, every text is put into one there. */
function refuseMessages(folder: string, { messageFormat }: SavedSettings): void {
  if (messageFormat === undefined || messageFormat === null) return
  const file = join(folder, 'sentence_bert_config.json')
  throw fault(file, 'modality_config.message: texts in a chat template are not known of a bi-encoder')
}

/** Nor of one that sentence-transformers did not save, whose tokeniser has a template: every text is put into it there. */
async function refuseTemplate(folder: string, { modules }: SavedSettings): Promise<void> {
  if (modules) return
  const config = await readJsonIfThere(folder, 'tokenizer_config.json', z.looseObject({ chat_template: z.unknown() }))
  const isBeside = await isFile(join(folder, CHAT_TEMPLATE))
  if (!isBeside && (config?.chat_template ?? null) === null) return
  const file = join(folder, isBeside ? CHAT_TEMPLATE : 'tokenizer_config.json')
  const what = 'chat_template: without modules.json, sentence-transformers writes every text as a conversation by it'
  throw fault(file, `${what}, which is not known here; remove it if the model is to read plain texts`)
}

/** Embeddings are compared by their cosine here. */
function refuseSimilarity(folder: string, { similarity, modules }: SavedSettings): void {
  if (similarity === null || similarity === 'cosine') return
  const isNormalised = modules?.some(({ kind }) => kind === 'Normalize')
  if (isNormalised && (similarity === 'dot' || similarity === 'dot_score')) return
  const file = join(folder, 'config_sentence_transformers.json')
  throw fault(
    file,
    `similarity_fn_name: "${similarity}" is not known of embeddings that are not normalised, only cosine`,
  )
}

/** Of a graph that gives the states of all tokens: what sentence-transformers' modules make of them. */
async function poolingOf(
  folder: string,
  { modules }: SavedSettings,
  prompts: BiEncoderModel['prompts'],
): Promise<'mean' | 'cls'> {
  if (!modules) return 'mean'
  const [pooling, ...others] = modules.slice(1)
  const strange = pooling?.kind === 'Pooling' ? others.find(({ kind }) => kind !== 'Normalize') : pooling
  if (!pooling || strange) {
    const what = strange ? `the module ${strange.kind} is not known of a bi-encoder` : 'there is no Pooling'
    throw fault(join(folder, 'modules.json'), `${what}, unless the graph has a pooled output (sentence_embedding)`)
  }
  const config = await readModuleConfig(folder, pooling, poolingSchema)
  const file = join(folder, pooling.path, 'config.json')
  if (!config.include_prompt && (prompts.query !== '' || prompts.passage !== ''))
    throw fault(file, 'include_prompt: false is not known of a model with prompts')
  const modes =
    config.pooling_mode === undefined || config.pooling_mode === null
      ? legacyModes(config)
      : [config.pooling_mode].flat()
  const [mode, second] = modes
  if (second !== undefined)
    throw fault(file, `the pooling puts ${modes.join(' and ')} side by side, which is not known`)
  // Their length is all that tells them apart, and it becomes 1.
  if (mode === undefined || mode === 'mean' || mode === 'mean_sqrt_len_tokens') return 'mean'
  if (mode === 'cls') return 'cls'
  throw fault(file, `the pooling ${mode} is not known: it is neither of the mean nor of the first token`)
}

function legacyModes(config: z.output<typeof poolingSchema>): string[] {
  const modes = {
    cls: config.pooling_mode_cls_token,
    max: config.pooling_mode_max_tokens,
    mean: config.pooling_mode_mean_tokens,
    mean_sqrt_len_tokens: config.pooling_mode_mean_sqrt_len_tokens,
    weightedmean: config.pooling_mode_weightedmean_tokens,
    lasttoken: config.pooling_mode_lasttoken,
  }
  return Object.entries(modes).flatMap(([name, isSet]) => (isSet ? [name] : []))
}
