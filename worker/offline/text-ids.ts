/** Texts as a model's token ids, for what runs its graph elsewhere. */
import type { Options } from '../../shared/options.js'
import type { TextIds } from '../model/model-quantization.js'
import { modelSource } from '../model-source.js'
import { PairEncoder } from '../tokenize/pair-encoder.js'

/** Texts to measure activations on, and lists to compare scores on. */
export interface MeasuringTexts {
  readonly measured: readonly (readonly [query: string, document: string])[]
  readonly heldOut: readonly { readonly query: string; readonly documents: readonly string[] }[]
}

/** Longer pairs take long and say nothing more of what a step is worth. */
const MOST_TOKENS = 256

/** @returns undefined for models that read prompts @throws RankmillError as opening a model and tokenising do */
export async function idsOf(folder: string, texts: MeasuringTexts, options: Options): Promise<TextIds | undefined> {
  const source = modelSource(options)
  const model = await source.openModel(folder, 'fp32')
  if (model.prompt) return undefined
  const encoder = new PairEncoder(await source.loadTokenizer(model), {
    maxTokens: Math.min(MOST_TOKENS, model.maxTokens),
    truncation: 'longest_first',
    cacheTokens: 0,
    queryPrompt: model.queryPrompt ?? '',
  })
  const encoded = (query: string, document: string) => {
    const { ids, secondStart } = encoder.encode(query, document)
    return [[...ids], secondStart] as const
  }
  return {
    pad: model.padId,
    measured: texts.measured.map(([query, document]) => encoded(query, document)),
    held_out: texts.heldOut.map(({ query, documents }) => documents.map((document) => encoded(query, document))),
  }
}
