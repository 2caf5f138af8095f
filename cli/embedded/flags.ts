/** The flags of commands that bring their own Redis and workers. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type Options, redisIsNamed } from '../../shared/options.js'
import { findUpNote } from '../../shared/up-note.js'
import { servingOptions } from '../served-models.js'
import type { StrategyFlags } from '../strategy-flags.js'
import { openSession, type Session } from './session.js'

export function countArgument(value: string): number {
  const count = Number(value)
  if (!Number.isInteger(count) || count < 1 || count > 1024)
    throw new InvalidArgumentError('must be a whole number from 1 to 1024')
  return count
}

export function addEmbeddedFlags(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--workers <n>',
        'workers to start where none is alive (default: one for two cores; none where a Redis is named)',
      )
        .helpGroup('Workers:')
        .argParser(countArgument),
    )
    .addOption(new Option('--no-embedded', 'start neither Redis nor workers; use those that run').helpGroup('Workers:'))
}

/** By flag, by environment, or by a `rankmill up` of this folder that uses another Redis than the folder's own. */
export function redisIsGiven(command: Command): boolean {
  const redis = command.getOptionValueSource('redis') === 'cli' ? command.getOptionValue('redis') : undefined
  return redisIsNamed({ redis }) || findUpNote()?.isPrivate === false
}

/** The session of a command, whose workers serve what its flags name. */
export function openSessionFor(command: Command, options: Options, signal?: AbortSignal): Promise<Session> {
  const { embedded, workers, ...flags } = command.opts<StrategyFlags & { embedded: boolean; workers?: number }>()
  const serving = servingOptions(options, flags)
  return openSession(serving, { embedded, workers, redisGiven: redisIsGiven(command), signal })
}
