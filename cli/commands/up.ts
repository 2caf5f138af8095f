/** `rankmill up`: everything on one machine until Ctrl-C. */
import { Command, Option } from 'commander'
import { onSignals } from '../../shared/lifecycle.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { addOptions, optionsOf, WORKER_OPTIONS } from '../options.js'

export function upCommand(): Command {
  const command = new Command('up')
    .description('Run everything on this machine: Redis (found or started), workers, metrics. Ctrl-C drains.')
    .addOption(new Option('--workers <n>', 'worker processes (default: one for two cores)').argParser(countArgument))
    .option('--port <port>', 'port of /metrics, /healthz and /readyz for the whole (default: 8080)')
    .action(async () => run(command))
  return addOptions(
    command,
    WORKER_OPTIONS.filter((name) => name !== 'metricsPort'),
  )
}

async function run(command: Command): Promise<void> {
  const { port = '8080', workers } = command.opts<{ port?: string; workers?: number }>()
  const { metricsPort, ...options } = optionsOf(command, { metricsPort: port })
  const session = await openSession(
    { ...options, metricsPort: 0 },
    {
      embedded: true,
      always: true,
      redisGiven: redisIsGiven(command),
      workers,
      metricsPort,
    },
  )
  note(`rankmill: Redis at ${hidden(session.options.redis)}, queue "${options.queue}"; Ctrl-C drains and stops`)
  await new Promise<void>((resolve) => {
    onSignals(
      () => {
        note('rankmill: stopping: running jobs are finished; Ctrl-C again stops at once')
        void session.stop().then(resolve)
      },
      () => void session.stop(true).then(() => process.exit(EXIT.interrupted)),
    )
  })
}

function hidden(url: string): string {
  return url.replace(/:[^:@/]+@/, ':***@')
}
