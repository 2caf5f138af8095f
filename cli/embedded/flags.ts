/** The flags of commands that bring their own Redis and workers. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { envOf, type Options } from '../../shared/options.js'
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
      new Option('--workers <n>', 'workers to start where none is alive (default: one for two cores)').argParser(
        countArgument,
      ),
    )
    .option('--no-embedded', 'start neither Redis nor workers; use those that run')
}

export function redisIsGiven(command: Command): boolean {
  return (
    command.getOptionValueSource('redis') === 'cli' || Boolean(process.env[envOf('redis')] || process.env['REDIS_URL'])
  )
}

export function openSessionFor(command: Command, options: Options): Promise<Session> {
  const { embedded, workers } = command.opts<{ embedded: boolean; workers?: number }>()
  return openSession(options, { embedded, workers, redisGiven: redisIsGiven(command) })
}
