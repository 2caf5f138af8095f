/** The flags that every batch command has, and the fields of requests that they fill. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { BatchFileOptions } from '../producer/batch/batch-file.js'
import type { Options } from '../shared/options.js'
import { addEmbeddedFlags } from './embedded/flags.js'
import { addOptions, BATCH_OPTIONS, PRODUCER_OPTIONS, WORKER_OPTIONS } from './options.js'

export interface BatchFlags {
  output: string
  maxErrors?: number
  overwrite?: true
  json?: true
  maxTokensPerDoc?: number
  priority?: number
}

export function addBatchFlags(command: Command): Command {
  command
    .addOption(
      new Option('--max-errors <n>', 'stop when more requests than this have failed (default: never)').argParser(
        numberArgument(0),
      ),
    )
    .option('--overwrite', 'begin anew where the output exists')
    .option('--json', 'report as JSON on standard output, progress as JSON lines on standard error')
    .addOption(
      new Option(
        '--max-tokens-per-doc <n>',
        'tokens read of each document where a request does not say (default: as many as fit)',
      ).argParser(numberArgument(1)),
    )
    .addOption(
      new Option(
        '--priority <n>',
        'priority of requests that do not say: 0 first, 999 last, from 500 on behind all who wait (default: 500)',
      ).argParser(numberArgument(0)),
    )
  addEmbeddedFlags(command)
  return addOptions(command, [...PRODUCER_OPTIONS, ...BATCH_OPTIONS, ...WORKER_OPTIONS])
}

/** Fields of requests that do not give them. */
export function requestDefaults(command: Command, options: Options): NonNullable<BatchFileOptions['defaults']> {
  const { maxTokensPerDoc, priority } = command.opts<BatchFlags>()
  return {
    model: command.getOptionValueSource('model') === 'cli' ? options.model : undefined,
    maxTokensPerDoc,
    priority,
  }
}

export function numberArgument(least: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!Number.isInteger(number) || number < least)
      throw new InvalidArgumentError(`must be a whole number of at least ${least}`)
    return number
  }
}
