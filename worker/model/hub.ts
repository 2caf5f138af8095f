/** Models from a hub, through the hub code of @xenova/transformers: its file names, its cache, its tokens (HF_TOKEN). */
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { fetchSettings, hasSettings } from './hub-settings.js'
import { isFile } from './json-file.js'
import { DTYPES, type Dtype, findDtypes } from './model-folder.js'

/** What transformers.js calls the formats. */
const HUB_DTYPES: Readonly<Record<Dtype, readonly string[]>> = {
  fp32: ['fp32'],
  fp16: ['fp16'],
  int8: ['int8', 'q8'],
  int4: ['q4'],
}

interface DownloadOptions {
  readonly dtype: Dtype | 'auto'
  readonly cacheDir: string
}

/**
 * Brings a model's files into the cache folder, unless they are there. HF_ENDPOINT names another hub than huggingface.co.
 *
 * @param revision branch, tag or commit
 * @returns the folder, in Hugging Face layout
 * @throws RankmillError `unknown_model` (the hub does not have it, or does not answer)
 */
export async function downloadModel(
  id: string,
  revision: string,
  { dtype, cacheDir }: DownloadOptions,
): Promise<string> {
  const cache = join(cacheDir, 'hub')
  // transformers.js lays files out like this (FileCache in its utils/hub.js).
  const folder = revision === 'main' ? join(cache, id) : join(cache, id, revision)
  if (await isComplete(folder, dtype)) return folder
  // Loaded only here: it is large, and brings an image library that needs native code.
  const { AutoConfig, AutoTokenizer, AutoModel, ModelRegistry, env, LogLevel } = await import('@xenova/transformers')
  env.allowLocalModels = false
  env.logLevel = LogLevel.ERROR
  if (process.env.HF_ENDPOINT) env.remoteHost = `${process.env.HF_ENDPOINT.replace(/\/+$/, '')}/`
  const options = { cache_dir: cache, revision }
  try {
    const config = await AutoConfig.from_pretrained(id, options)
    const [kind] = (config as { architectures?: string[] }).architectures ?? []
    // The library brings neither its chat template nor what sentence-transformers says of it.
    if (kind?.endsWith('ForCausalLM')) throw new Error(`a ${kind} needs all of its files: ${adding(id, revision)}`)
    await AutoTokenizer.from_pretrained(id, options).catch((cause: Error) => {
      throw /Could not locate file/.test(cause.message)
        ? new Error(`it has no tokenizer.json, or none of its settings: ${adding(id, revision)}`)
        : cause
    })
    const offered = await ModelRegistry.get_available_dtypes(id, { ...options, config })
    const wanted = dtype === 'auto' ? DTYPES : [dtype]
    const chosen = wanted.flatMap((format) => HUB_DTYPES[format]).find((name) => offered.includes(name))
    if (chosen === undefined) {
      const has = offered.length > 0 ? `it has ${offered.join(', ')}` : adding(id, revision)
      throw new Error(`it has no ONNX file of the wanted format (${wanted.join(', ')}): ${has}`)
    }
    // The library has no way to download without loading; the session is let go of at once.
    const model = await AutoModel.from_pretrained(id, { ...options, config, dtype: chosen as 'fp32', device: 'cpu' })
    await model.dispose()
    await fetchSettings(env.remoteHost, id, revision, folder)
  } catch (cause) {
    const reason = unreached(cause) ?? (cause instanceof Error ? cause.message : String(cause))
    throw new RankmillError(
      'unknown_model',
      `model "${id}" (revision ${revision}): ${reason}`,
      { param: 'model' },
      { cause },
    )
  }
  return folder
}

/** What makes a model that can be served of whatever the hub has. */
function adding(id: string, revision: string): string {
  return `\`rankmill models add ${id}${revision === 'main' ? '' : ` --revision ${revision}`}\` makes one that can be served`
}

/** What keeps the hub from answering; undefined where it does. */
function unreached(cause: unknown): string | undefined {
  if (!(cause instanceof TypeError) || cause.message !== 'fetch failed') return undefined
  const hub = process.env.HF_ENDPOINT ?? 'https://huggingface.co'
  const why = cause.cause instanceof Error ? `: ${cause.cause.message}` : ''
  return (
    `there is no such folder here, and the hub at ${hub} is not reached${why}. Without a network, name the folder of a ` +
    'model, or a mirror in HF_ENDPOINT'
  )
}

/** Whether an earlier download left everything that is needed: then the hub is not asked again. */
async function isComplete(folder: string, dtype: Dtype | 'auto'): Promise<boolean> {
  for (const name of ['config.json', 'tokenizer.json']) if (!(await isFile(join(folder, name)))) return false
  // One that `models add` put there is whole.
  if (!(await hasSettings(folder)) && !(await isFile(join(folder, 'rankmill.json')))) return false
  const present = await findDtypes(folder, undefined)
  // Another format, fetched by name, must not become the default by being there.
  return present[dtype === 'auto' ? 'fp32' : dtype] !== undefined
}
