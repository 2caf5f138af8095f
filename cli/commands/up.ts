/** `rankmill up`: everything on one machine until Ctrl-C. */
import { once } from 'node:events'
import { Command, InvalidArgumentError, Option } from 'commander'
import { withoutPassword } from '../../shared/redis/connection.js'
import { leaveUpNote } from '../../shared/up-note.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import type { WorkerPool } from '../embedded/fleet.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { checkPort } from '../free-port.js'
import { type Interruption, interruptible } from '../interruption.js'
import { addOptions, isNamed, optionsOf, SERVER_OPTIONS, WORKER_OPTIONS } from '../options.js'

export function upCommand(): Command {
  const command = new Command('up')
    .description(
      'Run everything on this machine: Redis (found or started), workers, the API server with its metrics. Ctrl-C drains.',
    )
    .addOption(new Option('--workers <n>', 'worker processes (default: one for two cores)').argParser(countArgument))
    .addOption(
      new Option(
        '--pool <model:n>',
        'so many workers of a model, instead of --model and --workers; once for each pool, the first being the default model',
      )
        .argParser(poolArgument)
        .conflicts(['model', 'workers']),
    )
    .action(async () => run(command))
  return addOptions(command, [...WORKER_OPTIONS.filter((name) => name !== 'metricsPort'), ...SERVER_OPTIONS])
}

async function run(command: Command): Promise<void> {
  const { workers, pool } = command.opts<{ workers?: number; pool?: readonly WorkerPool[] }>()
  const given = optionsOf(command, { metricsPort: 0 })
  const options = pool ? { ...given, model: pool[0]?.model ?? given.model } : given
  const redisGiven = redisIsGiven(command)
  const isPortNamed = isNamed(command, 'port')
  if (isPortNamed) await checkPort(options.host, options.port)
  const doing = 'stopping: running jobs are finished'
  const work = async ({ signal, forced }: Interruption) => {
    const session = await openSession(options, {
      embedded: true,
      always: true,
      redisGiven,
      workers,
      pools: pool,
      metricsPort: { port: 0 },
      signal,
    })
    forced.addEventListener('abort', () => void session.stop(true))
    let server: { readonly url: string; close(): Promise<void> } | undefined
    let forget: (() => void) | undefined
    try {
      // Loaded here, so that no other command waits for what only a server needs.
      const { ApiServer } = await import('../../server/server.js')
      // An access log is for services; here a person reads.
      const logLevel = session.options.logLevel === 'info' ? 'warn' : session.options.logLevel
      server = await ApiServer.start(
        { ...session.options, logLevel },
        {
          moreMetrics: async () => (await session.metrics?.text()) ?? '',
          portOrNext: !isPortNamed,
        },
      )
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

function poolArgument(value: string, before: readonly WorkerPool[] = []): readonly WorkerPool[] {
  const [, model = value, workers = '1'] = /^(.*):(\d+)$/.exec(value) ?? []
  if (model === '') throw new InvalidArgumentError('must be a model, and how many workers: rankmill-nano:2')
  return [...before, { model, workers: countArgument(workers) }]
}
