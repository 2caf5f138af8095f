/**
 * Rerankers whose head is a chain of sentence-transformers' own modules behind a bare encoder (`Transformer`, `Pooling`, `Dense`,
 * `LayerNorm`, `Dense`: Ettin's). A graph is known to hold all of the chain by its output: as wide as the last of them.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { fault } from './json-file.js'
import type { ModelConfig } from './model-folder.js'
import { readModuleConfig, type SavedSettings } from './sentence-transformers.js'

const KNOWN = new Set(['Pooling', 'Dense', 'LayerNorm', 'Normalize', 'Dropout'])

const denseSchema = z.looseObject({
  out_features: z.int().positive(),
  module_output_name: z.string().nullish(),
})

/**
 * @returns how many scores the chain gives; undefined where there is none
 * @throws RankmillError `invalid_model`
 */
export async function readSavedHead(folder: string, { modules, task }: SavedSettings): Promise<number | undefined> {
  if (!modules || task !== 'feature-extraction' || modules.length < 2) return undefined
  const behind = modules.slice(1)
  const file = join(folder, 'modules.json')
  const foreign = behind.find(({ kind }) => !KNOWN.has(kind))
  if (foreign) throw fault(file, `the module ${foreign.kind} behind the Transformer is not known of a cross-encoder`)
  const last = behind.at(-1)
  if (last?.kind !== 'Dense')
    throw fault(file, `the last module is ${last?.kind}, where a cross-encoder has a Dense that gives the scores`)
  const { out_features: scores, module_output_name: output } = await readModuleConfig(folder, last, denseSchema)
  if (output !== 'scores')
    throw fault(
      join(folder, last.path, 'config.json'),
      `module_output_name ${output ?? 'none'}: a cross-encoder gives "scores"`,
    )
  return scores
}

/** The configuration with the chain's outputs for labels: config.json is the bare encoder's. */
export function withHead(config: ModelConfig, scores: number | undefined): ModelConfig {
  return scores === undefined ? config : { ...config, id2label: undefined, num_labels: scores }
}
