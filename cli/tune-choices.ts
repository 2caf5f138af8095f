/** What there is to try: from the models at hand, and how long the documents are. */
import { quantile } from 'simple-statistics'
import { type Choices, type Configuration, configurationsOf } from '../producer/tune/configurations.js'
import type { TuningQuery } from '../producer/tune/trial.js'
import type { Options } from '../shared/options.js'
import type { Model } from '../worker/model/model.js'
import { modelSource } from '../worker/model-source.js'

/** More tokens than that are counted as so many. */
const MAX_COUNTED_TOKENS = 100_000

export interface Prepared {
  readonly configurations: Configuration[]
  /** Tokens of each document, by the first model's tokeniser. */
  readonly lengths: number[]
}

/** @throws RankmillError what opening a model throws */
export async function prepareTuning(
  options: Options,
  wanted: Pick<Choices, 'models' | 'dtypes' | 'filters' | 'depth' | 'most'>,
  queries: readonly TuningQuery[],
): Promise<Prepared> {
  const source = modelSource(options)
  const [first = '', ...others] = wanted.models
  const opened: Model[] = []
  for (const dtype of wanted.dtypes) opened.push(await source.openModel(first, dtype))
  const [model] = opened
  if (!model) throw new RangeError('no number format to try')
  const tokenizer = await source.loadTokenizer(model)
  const lengths = queries.flatMap(({ documents }) =>
    documents.map(({ text }) => tokenizer.encode(text, MAX_COUNTED_TOKENS).ids.length),
  )
  const inEach = <T>(of: (one: Model) => T[]): T[] =>
    opened.map(of).reduce((all, list) => all.filter((value) => list.includes(value)))
  const layers = inEach(({ exits }) => exits.slice(0, -1).map(({ layer }) => layer))
  const confidences = inEach(({ exits: [exit] }) => exit?.margins.map(({ confidence }) => confidence) ?? [])
  const learned: Record<string, string[]> = { [first]: Object.keys(model.fusion) }
  for (const other of others) learned[other] = Object.keys((await source.openModel(other, 'auto')).fusion)
  const configurations = configurationsOf({
    ...wanted,
    learned,
    hasFirstStage: queries.every(({ documents }) => documents.every(({ score }) => score !== undefined)),
    exits: [...layers.map((layer) => `after:${layer}` as const), ...confidences.map((confidence) => ({ confidence }))],
    longTokens: quantile(lengths, 0.9),
  })
  return { configurations, lengths }
}
