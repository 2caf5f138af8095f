/** `rankmill up`: everything on one machine until Ctrl-C. */
import { once } from 'node:events'
import { Command, Option } from 'commander'
import { envOf } from '../../shared/options.js'
import { withoutPassword } from '../../shared/redis/connection.js'
import { leaveUpNote } from '../../shared/up-note.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { type Interruption, interruptible } from '../interruption.js'
import { addOptions, optionsOf, SERVER_OPTIONS, WORKER_OPTIONS } from '../options.js'

export function upCommand(): Command {
  const command = new Command('up')
    .description(
      'Run everything on this machine: Redis (found or started), workers, the API server with its metrics. Ctrl-C drains.',
    )
    .addOption(new Option('--workers <n>', 'worker processes (default: one for two cores)').argParser(countArgument))
    .action(async () => run(command))
  return addOptions(command, [...WORKER_OPTIONS.filter((name) => name !== 'metricsPort'), ...SERVER_OPTIONS])
}

async function run(command: Command): Promise<void> {
  const { workers } = command.opts<{ workers?: number }>()
  const options = optionsOf(command, { metricsPort: 0 })
  const redisGiven = redisIsGiven(command)
  const doing = 'stopping: running jobs are finished'
  const work = async ({ signal, forced }: Interruption) => {
    const session = await openSession(options, {
      embedded: true,
      always: true,
      redisGiven,
      workers,
      metricsPort: { port: 0 },
      signal,
    })
    forced.addEventListener('abort', () => void session.stop(true))
    let server: { readonly url: string; close(): Promise<void> } | undefined
    let forget: (() => void) | undefined
    try {
      // Loaded here, so that no other command waits for what only a server needs.
      const { ApiServer } = await import('../../server/server.js')
      server = await ApiServer.start(session.options, {
        moreMetrics: async () => (await session.metrics?.text()) ?? '',
        portOrNext: command.getOptionValueSource('port') !== 'cli' && !process.env[envOf('port')],
      })
      const { redis, prefix, queue } = session.options
      forget = leaveUpNote({ redis, prefix, queue, isPrivate: !redisGiven })
      note(`rankmill: the API is at ${server.url}, its documentation at ${server.url}/docs`)
      note(
        `rankmill: up: queue "${queue}" at ${withoutPassword(redis)}. \`new RerankClient()\` and all commands find it ` +
          'in this folder, and with REDIS_URL elsewhere. Ctrl-C drains and stops',
      )
      if (!signal.aborted) await once(signal, 'abort')
    } finally {
      forget?.()
      await server?.close()
      await session.stop(forced.aborted)
    }
  }
  await interruptible(doing, work, EXIT.done)
}
