/** A cross-encoder at hand: where its files are and what the other parts must know of it. */
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import type { PromptSettings } from '../tokenize/chat-prompt.js'
import type { BoundFile } from './bound-files.js'
import { type CausalHead, causalHeadOf, readAnswers } from './causal-head.js'
import { fault } from './json-file.js'
import { type ModelExit, openExits } from './model-exits.js'
import { fingerprintOf } from './model-fingerprint.js'
import * as files from './model-folder.js'
import { CHAT_TEMPLATE, readPrompt } from './model-prompt.js'
import { locateModel } from './model-reference.js'
import { readSavedHead, withHead } from './saved-head.js'
import { readSavedSettings, type SavedSettings } from './sentence-transformers.js'

export type Dtype = files.Dtype
/** Where a model runs. */
export type Device = 'cpu' | 'cuda' | 'webgpu'

/** What every model has. */
export interface ModelFiles {
  /** `rankmill-small`, or the folder or hub id that it was asked for by. */
  readonly name: string
  /** Absolute path of the folder in Hugging Face layout. */
  readonly folder: string
  readonly dtype: Dtype
  /** The ONNX file of that dtype. */
  readonly modelPath: string
  /** Tokens of a pair or a text, special ones included. */
  readonly maxTokens: number
  readonly usesTokenTypes: boolean
  readonly padId: number
  /** Changes when anything changes that scores depend on. */
  readonly fingerprint: string
  /** What the fingerprint stands for: they are compared each time that they are read again. */
  readonly files?: readonly BoundFile[]
  /** Name of the graph's output; absent where it is the usual one. */
  readonly output?: string
  /** Of the graph's inputs, those that are int32. */
  readonly narrowInputs?: readonly string[]
  /** Where the graph is given positions: that of the first token. */
  readonly firstPosition?: number
  /** Whether what it gives for a pair or a text does not depend on the others of its batch. */
  readonly batchInvariant: boolean
}

/** Scores pairs. Frozen plain data: it is sent to threads as it is. */
export interface Model extends ModelFiles {
  readonly kind: 'cross-encoder'
  /**
   * Width of the head. The score is the logit of `label`; where that is absent, of a head of 2 it is logit 1 - logit 0,
   * because a softmax over two is the sigmoid of the difference.
   */
  readonly logits: number
  /** From 0. */
  readonly label?: number
  /** What sentence-transformers' CrossEncoder puts on top of the logit. */
  readonly activation: 'sigmoid' | 'identity'
  /** Places where scoring may stop, the last being the whole model; empty where there are none in this number format. */
  readonly exits: readonly ModelExit[]
  /** What is put before every query. */
  readonly queryPrompt?: string
  /** Where pairs are read in a chat template: that takes a request's instruction. */
  readonly prompt?: PromptSettings
  /** Of a causal language model, whose score is in what it would say next. */
  readonly causal?: CausalHead
  /** Learned weights of first stages, by their names: `z(model) + weight · z(first stage)`. */
  readonly fusion: Readonly<Record<string, number>>
  /** By other models' names the line that brings its logits to theirs: scale * logit + offset. */
  readonly calibrations: Readonly<Record<string, { readonly scale: number; readonly offset: number }>>
}

export interface OpenModelOptions {
  /** `auto`: int8 on a CPU if rankmill.json says that it is batch-invariant, fp16 on a GPU if there and computed, else fp32. */
  readonly dtype: Dtype | 'auto'
  /** `auto` is the CPU: what it comes to on a machine is for the caller to find out. */
  readonly device: Device | 'auto'
  /** Whether the device computes fp16; absent: it does. */
  readonly halves?: boolean
  /** Where downloads and content hashes are kept. */
  readonly cacheDir: string
  /** Of a hub model: branch, tag or commit; default main. A reference may also say it: `org/name@revision`. */
  readonly revision?: string
  /** Whether a hub may be asked for a reference that looks like a hub id. */
  readonly allowHub: boolean
}

/**
 * Opens a model: finds its folder (downloads it if a hub id was named), and reads and checks everything but the weights.
 *
 * @param reference name of a shipped model (`rankmill-small`, or short `small`), a folder, or a hub id (`org/name`)
 * @throws RankmillError `unknown_model`, `invalid_model` (naming file and fault)
 */
export async function openModel(reference: string, options: OpenModelOptions): Promise<Model> {
  const { name, folder } = await locateModel(reference, options)
  const manifest = await files.readManifest(folder)
  if (manifest && manifest.kind !== 'cross-encoder') {
    throw new RankmillError('invalid_model', `${join(folder, 'rankmill.json')}: a ${manifest.kind} cannot score pairs`)
  }
  const config = await files.readConfig(folder)
  const tokenizer = await files.readTokenizerFacts(folder)
  const present = await files.findDtypes(folder, manifest)
  const dtype = chooseDtype(folder, options, present, manifest)
  const modelPath = join(folder, present[dtype] ?? '')
  const graph = await files.readGraph(modelPath)
  const saved = await readSavedSettings(folder, 'CrossEncoder')
  const answers = await readAnswers(folder, config, tokenizer, saved)
  const chain = await readSavedHead(folder, saved)
  const { usesPositions, ...head } = answers
    ? { ...causalHeadOf(modelPath, graph, answers, manifest), logits: 1 as const, usesTokenTypes: false }
    : files.headOf(modelPath, graph, withHead(config, chain), manifest?.label)
  const prompt = await readPrompt(folder, config, saved)
  if ('label' in head && head.label !== undefined && manifest && manifest.exits.length > 0)
    throw new RankmillError('invalid_model', `${join(folder, 'rankmill.json')}: label and exits do not go together`)
  const digests = manifest?.sha256 ?? {}
  const more = [
    ...(prompt ? [CHAT_TEMPLATE] : []),
    ...(saved.modules ?? []).slice(1).map(({ path }) => join(path, 'config.json')),
  ]
  files.checkVocabulary(folder, tokenizer, files.embeddingRows(graph))
  return Object.freeze({
    name,
    folder,
    dtype,
    modelPath,
    kind: 'cross-encoder',
    maxTokens: Math.min(files.maxTokensOf(config, tokenizer, manifest, saved), prompt?.maxTokens ?? Infinity),
    ...head,
    ...(usesPositions ? { firstPosition: files.firstPositionOf(config) } : {}),
    activation: files.activationOf(folder, config, head.logits, saved),
    ...(prompt ? { prompt: prompt.settings, queryPrompt: '' } : { queryPrompt: queryPromptOf(folder, saved) }),
    fusion: manifest?.fusion?.weights ?? {},
    calibrations: manifest?.calibrations ?? {},
    padId: tokenizer.padId ?? config.pad_token_id ?? 0,
    ...(await fingerprintOf(
      folder,
      modelPath,
      graph.externalFiles,
      dtype,
      options.cacheDir,
      digests,
      more,
      'label' in head ? head.label : undefined,
    )),
    batchInvariant: files.isBatchInvariant(manifest, dtype, graph),
    exits: await openExits(folder, manifest?.exits ?? [], dtype, options.cacheDir, digests),
  })
}

/** The prompt that sentence-transformers puts before each query (CrossEncoder.predict): the default one, by its name. */
export function queryPromptOf(folder: string, { prompts, defaultPrompt }: SavedSettings): string {
  if (defaultPrompt === null) return ''
  if (!(defaultPrompt in prompts)) {
    const file = join(folder, 'config_sentence_transformers.json')
    throw fault(file, `default_prompt_name: prompts has no "${defaultPrompt}"`)
  }
  return prompts[defaultPrompt] ?? ''
}

/** @throws RankmillError `invalid_model` where the wanted format is not there */
export function chooseDtype(
  folder: string,
  { dtype: wanted, device, halves = true }: OpenModelOptions,
  present: Partial<Record<Dtype, string>>,
  manifest: files.Manifest | undefined,
): Dtype {
  const dtypes = files.DTYPES.filter((dtype) => present[dtype] !== undefined)
  const has = (dtype: Dtype) => dtypes.includes(dtype)
  const [only] = dtypes
  if (only === undefined) {
    const looked = Object.values(manifest?.dtypes ?? {}).join(', ') || 'onnx/model.onnx, onnx/model_int8.onnx, …'
    throw new RankmillError('invalid_model', `${folder}: there is no ONNX file in it (looked for ${looked})`)
  }
  if (wanted !== 'auto') {
    if (wanted === 'fp16' && !halves) {
      const message = `dtype: this machine's ${device} device does not compute fp16; --dtype fp32 or auto`
      throw new RankmillError('invalid_configuration', message, { param: 'dtype' })
    }
    if (has(wanted)) return wanted
    const message = `${folder}: the model has no ${wanted} file, only ${dtypes.join(', ')}`
    throw new RankmillError('invalid_model', message, { param: 'dtype' })
  }
  if (device === 'cuda' || device === 'webgpu') return halves && has('fp16') ? 'fp16' : has('fp32') ? 'fp32' : only
  const said = manifest?.batch_invariant
  const reproducible = typeof said === 'object' ? said.int8 === true : said === true
  if (has('int8') && reproducible) return 'int8'
  return has('fp32') ? 'fp32' : only
}
