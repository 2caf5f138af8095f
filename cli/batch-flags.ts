/** The flags that every batch command has, and the fields of requests that they fill. */
import { type Command, Option } from 'commander'
import type { BatchFileOptions } from '../producer/batch/batch-file.js'
import type { Options } from '../shared/options.js'
import { addEmbeddedFlags } from './embedded/flags.js'
import { addOptions, BATCH_OPTIONS, PRODUCER_OPTIONS, WORKER_OPTIONS } from './options.js'
import { requestedModel } from './served-models.js'
import { addStrategyFlags, numberArgument, type StrategyFlags, strategyOf } from './strategy-flags.js'

export interface BatchFlags extends StrategyFlags {
  output: string
  maxErrors?: number
  overwrite?: true
  allowModelChange?: true
  allowCorpusChange?: true
  json?: true
  priority?: number
}

export function addBatchFlags(command: Command): Command {
  command
    .addOption(
      new Option('--max-errors <n>', 'stop when more requests than this have failed (default: never)').argParser(
        numberArgument(0),
      ),
    )
    .option('--overwrite', 'begin anew where the output exists; a run that began so and was interrupted goes on')
    .option('--allow-model-change', 'go on with another model, or other options of it, than the run began with')
    .option('--allow-corpus-change', "go on with a corpus's current version where the one that the run read is gone")
    .option('--json', 'report as JSON on standard output, progress as JSON lines on standard error')
    .addOption(
      new Option(
        '--priority <n>',
        'priority of requests that do not say: 0 first, 999 last, from 500 on behind all who wait (default: 500)',
      ).argParser(numberArgument(0)),
    )
  addStrategyFlags(command)
  addEmbeddedFlags(command)
  return addOptions(command, [...PRODUCER_OPTIONS, ...BATCH_OPTIONS, ...WORKER_OPTIONS])
}

/** Fields of requests that do not give them. */
export function requestDefaults(command: Command, options: Options): NonNullable<BatchFileOptions['defaults']> {
  const flags = command.opts<BatchFlags>()
  return {
    model: requestedModel(command, options),
    instruction: flags.instruction,
    maxTokensPerDoc: flags.maxTokensPerDoc,
    priority: flags.priority,
    strategy: strategyOf(flags),
  }
}
