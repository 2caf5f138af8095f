/** How documents are scored, as flags: docs/strategies.md. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { LongDocuments, StrategyInput } from '../shared/strategy.js'

export interface StrategyFlags {
  maxTokensPerDoc?: number
  longDocuments?: LongDocuments
  prefilter?: number | string
  prefilterModel?: string
  fuse?: string
  exit?: string
}

export function addStrategyFlags(command: Command): Command {
  return command
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
    .option('--prefilter-model <name>', 'the filter: bm25 (default), or a bi-encoder that the workers serve')
    .option('--fuse <how>', "put the filter's order into the final one: rrf, or the model's share from 0 to 1")
    .option(
      '--exit <when>',
      'stop inside the model: never (default), auto, after:<layer>, or the confidence (such as 0.99) with which documents that leave early are none of the first --top-n',
    )
}

/** undefined where no flag says anything. What the flags hold is checked with the request. */
export function strategyOf(flags: StrategyFlags): StrategyInput | undefined {
  const { longDocuments, prefilter, prefilterModel, fuse, exit } = flags
  if ([longDocuments, prefilter, prefilterModel, fuse, exit].every((value) => value === undefined)) return undefined
  const filtered = prefilter !== undefined || prefilterModel !== undefined
  const strategy = {
    ...(longDocuments === undefined ? {} : { long_documents: longDocuments }),
    ...(filtered ? { prefilter: { keep: prefilter, model: prefilterModel } } : {}),
    ...(fuse === undefined ? {} : { fuse: Number.isNaN(Number(fuse)) ? fuse : { weight: Number(fuse) } }),
    ...(exit === undefined ? {} : { exit: Number.isNaN(Number(exit)) ? exit : { confidence: Number(exit) } }),
  }
  return strategy as StrategyInput
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
