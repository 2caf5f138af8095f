/** How documents are scored, as flags: docs/strategies.md. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { RankmillError } from '../shared/errors.js'
import type { Dtype } from '../shared/protocol/dtype.js'
import type { RerankInput } from '../shared/protocol/request.js'
import type { LongDocuments, StrategyInput } from '../shared/protocol/strategy.js'

export interface StrategyFlags {
  /** Also what workers that are started score in. */
  dtype?: Dtype | 'auto'
  instruction?: string
  maxTokensPerDoc?: number
  longDocuments?: LongDocuments
  prefilter?: number | string
  prefilterModel?: string
  prefilterBy?: string
  cascade?: string
  fuse?: string
  fuseOf?: string
  exit?: string
}

export function addStrategyFlags(command: Command): Command {
  return command
    .optionsGroup('Strategies:')
    .option('--instruction <text>', 'what a model that takes an instruction judges by (default: its own)')
    .addOption(
      new Option('--max-tokens-per-doc <n>', 'tokens read of each document (default: as many as fit)').argParser(
        numberArgument(1),
      ),
    )
    .addOption(
      new Option(
        '--long-documents <mode>',
        'what is read of a document that is too long: its beginning (truncate), all of it in overlapping windows, the best of which counts (windows), or the sentences closest to the query (snippet); default: truncate',
      ).choices(['truncate', 'windows', 'snippet']),
    )
    .addOption(
      new Option(
        '--prefilter <keep>',
        'score only the best by a cheap filter: how many documents, a share of them below 1, or auto',
      ).argParser((value) => (Number.isNaN(Number(value)) ? value : Number(value))),
    )
    .option(
      '--prefilter-model <name>',
      'the filter: bm25 (default), first-stage (the scores that the documents bring along), a bi-encoder that the workers serve, or several, fused (first-stage+filter)',
    )
    .addOption(
      new Option(
        '--prefilter-by <what>',
        'what counts of several filters: their ranks (rank, the default) or their scores in standard deviations (score)',
      ).choices(['rank', 'score']),
    )
    .option(
      '--cascade <stages>',
      'cheaper models that score first, each with how many go on (as with --prefilter), divided by commas: nano:30',
    )
    .option(
      '--fuse <how>',
      "put the filter's opinion into the final order: rrf, learned (weights that the model brings), the model's share from 0 to 1 of the ranks, or score: and its share of the scores (score:0.7)",
    )
    .option(
      '--fuse-of <filter>',
      'which of several filters comes into the final order; default: what they say together',
    )
    .option(
      '--exit <when>',
      'stop inside the model: never (default), auto, after:<layer>, or the confidence (such as 0.99) with which documents that leave early are none of the first --top-n',
    )
    .optionsGroup('Options:')
}

/** undefined where no flag says anything. What the flags hold is checked with the request. */
export function strategyOf(flags: StrategyFlags): StrategyInput | undefined {
  const { longDocuments, prefilter, prefilterModel, prefilterBy, cascade, fuse, fuseOf, exit } = flags
  const dtype = flags.dtype === 'auto' ? undefined : flags.dtype
  if (fuseOf !== undefined && fuse === undefined) {
    const message = '--fuse-of: says which filter is fused, and needs --fuse, which says how'
    throw new RankmillError('invalid_request', message, { param: 'fuse-of' })
  }
  const given = [dtype, longDocuments, prefilter, prefilterModel, prefilterBy, cascade, fuse, exit]
  if (given.every((value) => value === undefined)) return undefined
  const filtered = prefilter !== undefined || prefilterModel !== undefined || prefilterBy !== undefined
  const strategy = {
    ...(dtype === undefined ? {} : { dtype }),
    ...(longDocuments === undefined ? {} : { long_documents: longDocuments }),
    ...(filtered ? { prefilter: { keep: prefilter, model: prefilterModel, by: prefilterBy } } : {}),
    ...(cascade === undefined ? {} : { cascade: cascade.split(',').map(stageOf) }),
    ...(fuse === undefined ? {} : { fuse: fusionOf(fuse, fuseOf) }),
    ...(exit === undefined ? {} : { exit: Number.isNaN(Number(exit)) ? exit : { confidence: Number(exit) } }),
  }
  return strategy as StrategyInput
}

/** `nano:30`; a name may hold colons of its own, so that the last one counts. */
export function stageOf(stage: string): { model: string; keep?: number | string } {
  const colon = stage.lastIndexOf(':')
  return colon < 0 ? { model: stage } : { model: stage.slice(0, colon), keep: numberOr(stage.slice(colon + 1)) }
}

function fusionOf(fuse: string, of: string | undefined): unknown {
  const byScore = fuse.startsWith('score:')
  const weight = numberOr(byScore ? fuse.slice('score:'.length) : fuse)
  const more = { ...(byScore ? { by: 'score' } : {}), ...(of === undefined ? {} : { of }) }
  if (fuse === 'rrf' && of !== undefined) return { weight: 0.5, of }
  return byScore || of !== undefined || typeof weight === 'number' ? { weight, ...more } : fuse
}

function numberOr(text: string): number | string {
  return text === '' || Number.isNaN(Number(text)) ? text : Number(text)
}

/** Fields of a request as flags of `rerank`, `batch run` and `batch trec`: what `strategyOf` reads back. */
export function flagsOf({
  model,
  topN,
  maxTokensPerDoc,
  strategy,
}: Pick<RerankInput, 'model' | 'topN' | 'maxTokensPerDoc' | 'strategy'>): string {
  const { dtype, long_documents, prefilter, cascade, fuse, exit } = strategy ?? {}
  const stages = cascade?.map(({ model, keep }) => (keep === undefined ? model : `${model}:${keep}`)).join(',')
  const weight = typeof fuse === 'object' ? `${fuse.by === 'score' ? 'score:' : ''}${fuse.weight}` : fuse
  const flags: [string, unknown][] = [
    ['model', model],
    ['dtype', dtype],
    ['top-n', topN],
    ['max-tokens-per-doc', maxTokensPerDoc],
    ['long-documents', long_documents],
    ['prefilter', prefilter?.keep],
    ['prefilter-model', prefilter?.model],
    ['prefilter-by', prefilter?.by],
    ['cascade', stages || undefined],
    ['fuse', weight],
    ['fuse-of', typeof fuse === 'object' ? fuse.of : undefined],
    ['exit', typeof exit === 'object' ? exit.confidence : exit],
  ]
  return flags.flatMap(([flag, value]) => (value === undefined ? [] : [`--${flag} ${value}`])).join(' ')
}

/** A whole number, at least so large. */
export function numberArgument(least: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!Number.isInteger(number) || number < least)
      throw new InvalidArgumentError(`must be a whole number of at least ${least}`)
    return number
  }
}
