/** `rankmill up`: everything on one machine until Ctrl-C. */
import { once } from 'node:events'
import { Command, InvalidArgumentError, Option } from 'commander'
import { withoutPassword } from '../../shared/redis/connection.js'
import { leaveUpNote } from '../../shared/up-note.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { type Interruption, interruptible } from '../interruption.js'
import { addOptions, optionsOf, WORKER_OPTIONS } from '../options.js'

const DEFAULT_PORT = 8080

export function upCommand(): Command {
  const command = new Command('up')
    .description('Run everything on this machine: Redis (found or started), workers, metrics. Ctrl-C drains.')
    .addOption(new Option('--workers <n>', 'worker processes (default: one for two cores)').argParser(countArgument))
    .addOption(
      new Option(
        '--port <port>',
        `port of /metrics, /healthz and /readyz for the whole (default: ${DEFAULT_PORT}, or the next that is free)`,
      ).argParser(portArgument),
    )
    .action(async () => run(command))
  return addOptions(
    command,
    WORKER_OPTIONS.filter((name) => name !== 'metricsPort'),
  )
}

async function run(command: Command): Promise<void> {
  const { port, workers } = command.opts<{ port?: number; workers?: number }>()
  const options = optionsOf(command, { metricsPort: 0 })
  const redisGiven = redisIsGiven(command)
  const doing = 'stopping: running jobs are finished'
  const work = async ({ signal, forced }: Interruption) => {
    const session = await openSession(options, {
      embedded: true,
      always: true,
      redisGiven,
      workers,
      metricsPort: { port: port ?? DEFAULT_PORT, orNext: port === undefined, flag: '--port' },
      signal,
    })
    forced.addEventListener('abort', () => void session.stop(true))
    const { redis, prefix, queue } = session.options
    const forget = leaveUpNote({ redis, prefix, queue, isPrivate: !redisGiven })
    try {
      note(
        `rankmill: up: queue "${queue}" at ${withoutPassword(redis)}. \`new RerankClient()\` and all commands find it ` +
          'in this folder, and with REDIS_URL elsewhere. Ctrl-C drains and stops',
      )
      if (!signal.aborted) await once(signal, 'abort')
    } finally {
      forget()
      await session.stop(forced.aborted)
    }
  }
  await interruptible(doing, work, EXIT.done)
}

function portArgument(value: string): number {
  const port = Number(value)
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new InvalidArgumentError('must be a port from 0 (any that is free) to 65535')
  return port
}
