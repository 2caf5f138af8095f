/** All that is known of one model before it is served: what its files say, what would be loaded of it, what was checked. */
import { RankmillError } from '../../shared/errors.js'
import { type Added, readAdded } from './adding/added-model.js'
import { openBiEncoder } from './bi-encoder-model.js'
import { openModel } from './model.js'
import * as files from './model-folder.js'
import { type ListedModel, showModel } from './model-list.js'
import { readSavedSettings } from './sentence-transformers.js'

export interface ModelCard extends ListedModel {
  readonly architecture: string | null
  /** What a worker without other options loads of it on a CPU; null where it loads nothing. */
  readonly loads: {
    readonly dtype: files.Dtype
    readonly activation: string | null
    /** Of the head. */
    readonly logits: number | null
    /** What the score is, by the name that config.json gives it; null where nobody said. */
    readonly label: string | null
    readonly maxTokens: number
    readonly batchInvariant: boolean
    readonly fingerprint: string
  } | null
  /** Why it loads nothing. */
  readonly fault: string | null
  readonly positions: number | null
  readonly labels: readonly string[]
  /** What is put before each query, of a bi-encoder also before each passage. */
  readonly prompts: Readonly<Record<string, string | null>>
  readonly defaultPrompt: string | null
  readonly added: Added | null
}

/**
 * @param reference as for showModel
 * @throws RankmillError `unknown_model`
 */
export async function cardOf(reference: string, { cacheDir }: { cacheDir: string }): Promise<ModelCard> {
  const listed = await showModel(reference, { cacheDir })
  const { folder, kind } = listed
  const config = await files.readConfig(folder).catch(() => undefined)
  const saved = await readSavedSettings(folder, kind === 'bi-encoder' ? 'SentenceTransformer' : 'CrossEncoder').catch(
    () => undefined,
  )
  const labels = (config && files.labelsOf(config)) ?? []
  const [loads, fault] = await loaded(listed, labels, cacheDir)
  return {
    ...listed,
    architecture: config?.architectures?.[0] ?? config?.model_type ?? null,
    loads,
    fault,
    positions: config?.max_position_embeddings ?? null,
    labels,
    prompts: saved?.prompts ?? {},
    defaultPrompt: saved?.defaultPrompt ?? null,
    added: (await readAdded(folder).catch(() => undefined)) ?? null,
  }
}

async function loaded(
  { folder, kind }: ListedModel,
  labels: readonly string[],
  cacheDir: string,
): Promise<[ModelCard['loads'], string | null]> {
  const options = { dtype: 'auto', device: 'cpu', cacheDir, allowHub: false } as const
  try {
    if (kind === 'bi-encoder') {
      const { dtype, maxTokens, batchInvariant, fingerprint } = await openBiEncoder(folder, options)
      return [{ dtype, activation: null, logits: null, label: null, maxTokens, batchInvariant, fingerprint }, null]
    }
    const { dtype, activation, logits, label, maxTokens, batchInvariant, fingerprint } = await openModel(
      folder,
      options,
    )
    const named = label === undefined ? null : (labels[label] ?? String(label))
    return [{ dtype, activation, logits, label: named, maxTokens, batchInvariant, fingerprint }, null]
  } catch (error) {
    return [null, RankmillError.from(error).message]
  }
}
