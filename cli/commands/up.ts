/** `rankmill up`: everything on one machine until Ctrl-C. */
import { Command, Option } from 'commander'
import { onSignals } from '../../shared/lifecycle.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
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
  const options = optionsOf(command)
  const session = await openSession(
    { ...options, metricsPort: 0 },
    {
      embedded: true,
      always: true,
      redisGiven: redisIsGiven(command),
      workers,
      metricsPort: 0,
    },
  )
  // Loaded here, so that no other command waits for what only a server needs.
  const { ApiServer } = await import('../../server/server.js')
  const server = await ApiServer.start(session.options, {
    moreMetrics: async () => (await session.metrics?.text()) ?? '',
  }).catch(async (error) => {
    await session.stop(true)
    throw error
  })
  note(`rankmill: the API is at ${server.url}, its documentation at ${server.url}/docs`)
  note(`rankmill: Redis at ${hidden(session.options.redis)}, queue "${options.queue}"; Ctrl-C drains and stops`)
  await new Promise<void>((resolve) => {
    onSignals(
      () => {
        note('rankmill: stopping: running jobs are finished; Ctrl-C again stops at once')
        void server
          .close()
          .then(() => session.stop())
          .then(resolve)
      },
      () => void session.stop(true).then(() => process.exit(EXIT.interrupted)),
    )
  })
}

function hidden(url: string): string {
  return url.replace(/:[^:@/]+@/, ':***@')
}
