/** The command `rankmill`: which commands there are, each loaded only where it is meant, and what becomes of errors. */
import * as module from 'node:module'
import { Command, CommanderError } from 'commander'
import { unwritable } from '../producer/batch/unwritable.js'
import { describeError, EXIT, exitCodeOf, note } from './exit.js'
import { dress } from './help.js'

const { version } = module.createRequire(import.meta.url)('rankmill/package.json') as { version: string }

keepCompiled()

interface ListedCommand {
  readonly name: string
  readonly summary: string
  readonly load: () => Promise<Command>
}

const GROUPS: Readonly<Record<string, readonly ListedCommand[]>> = {
  'Rerank:': [
    {
      name: 'rerank',
      summary: 'one query over the lines of files',
      load: async () => (await import('./commands/rerank.js')).rerankCommand(),
    },
    {
      name: 'batch',
      summary: 'files of requests, and whole retrieval runs',
      load: async () => (await import('./commands/batch.js')).batchCommand(),
    },
    {
      name: 'corpus',
      summary: 'passages stored once, that requests name',
      load: async () => (await import('./commands/corpus.js')).corpusCommand(),
    },
    {
      name: 'demo',
      summary: '25 questions about the installed packages',
      load: async () => (await import('./commands/demo.js')).demoCommand(),
    },
  ],
  'Serve:': [
    {
      name: 'up',
      summary: 'Redis, workers and the HTTP API on this machine',
      load: async () => (await import('./commands/up.js')).upCommand(),
    },
    {
      name: 'serve',
      summary: 'the HTTP API alone, for workers elsewhere',
      load: async () => (await import('./commands/serve.js')).serveCommand(),
    },
    {
      name: 'worker',
      summary: 'one worker process',
      load: async () => (await import('./commands/worker.js')).workerCommand(),
    },
    {
      name: 'status',
      summary: 'queues, what waits and why, live workers',
      load: async () => (await import('./commands/status.js')).statusCommand(),
    },
    {
      name: 'metrics',
      summary: 'the queues’ metrics without a worker',
      load: async () => (await import('./commands/metrics.js')).metricsCommand(),
    },
    {
      name: 'keys',
      summary: 'API keys: create, list, revoke',
      load: async () => (await import('./commands/keys.js')).keysCommand(),
    },
    {
      name: 'failed',
      summary: 'dead jobs: list, show, try again, remove',
      load: async () => (await import('./commands/failed.js')).failedCommand(),
    },
    {
      name: 'doctor',
      summary: 'what is missing here, and how to mend it',
      load: async () => (await import('./commands/doctor.js')).doctorCommand(),
    },
  ],
  'Models and speed:': [
    {
      name: 'models',
      summary: 'add, list, show, check, quantise',
      load: async () => (await import('./commands/models.js')).modelsCommand(),
    },
    {
      name: 'tune',
      summary: 'the cheapest way that keeps the quality, on your data',
      load: async () => (await import('./commands/tune.js')).tuneCommand(),
    },
    {
      name: 'bench',
      summary: 'pairs a second of this machine',
      load: async () => (await import('./commands/bench.js')).benchCommand(),
    },
    {
      name: 'plan',
      summary: 'how many workers some work needs',
      load: async () => (await import('./commands/plan.js')).planCommand(),
    },
  ],
}

const args = process.argv.slice(2)
const program = new Command('rankmill')
  .description('Rerank documents with cross-encoders, through a durable queue.')
  .version(version, '-V, --version', 'print the version')
  .helpCommand('help [command]', 'help for a command')
  .addHelpText('after', '\nShell completion: eval "$(rankmill complete bash)"; zsh and fish, too.')

/** What could not be printed. A reader that has seen enough, as `head` does, is no fault. */
let unprinted: Error | undefined
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') unprinted ??= error
})
// Nobody reads what a command says of itself: no reason to end what it does.
process.stderr.on('error', () => undefined)
process.once('exit', (code) => {
  if (!unprinted || code !== EXIT.done) return
  note(describeError(unwritable('standard output', unprinted)))
  process.exitCode = exitCodeOf(unwritable('standard output', unprinted))
})

try {
  for (const [heading, commands] of Object.entries(GROUPS)) {
    for (const listed of commands) program.addCommand((await commandOf(listed)).helpGroup(heading))
  }
  if (args[0] === 'complete') await addCompletion()
  dress(program, args)
  await program.parseAsync(args[0] === 'help' ? helpArguments(args.slice(1)) : args, { from: 'user' })
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage
  } else {
    note(describeError(error))
    process.exitCode = exitCodeOf(error)
  }
}

/** All of a command where the arguments mean it, and else what the list of commands shows of it. */
async function commandOf({ name, summary, load }: ListedCommand): Promise<Command> {
  const [first = ''] = args
  const isMeant = first === name || (['help', 'complete'].includes(first) && args.includes(name))
  return isMeant ? (await load()).summary(summary) : new Command(name).description(summary)
}

/** `help batch run` is `batch run --help`, whatever follows; a word that is no command is left to be refused as one. */
function helpArguments(words: readonly string[]): string[] {
  const path: string[] = []
  let command = program
  for (const word of words) {
    const next = command.commands.find((one) => one.name() === word || one.aliases().includes(word))
    if (next) {
      command = next
      path.push(word)
    } else if (!word.startsWith('-') && command.commands.length > 0) return [...path, word]
  }
  return [...path, words.includes('--help-all') ? '--help-all' : '--help']
}

async function addCompletion(): Promise<void> {
  const { default: tab } = await import('@bomb.sh/tab/commander')
  tab(program)
}

/** From Node 22 on, compiled code is kept from one start to the next: for this process, and for those that it starts. */
function keepCompiled(): void {
  const { enableCompileCache, getCompileCacheDir } = module as typeof module & {
    enableCompileCache?: () => void
    getCompileCacheDir?: () => string | undefined
  }
  enableCompileCache?.()
  const folder = getCompileCacheDir?.()
  if (folder !== undefined) process.env['NODE_COMPILE_CACHE'] ??= folder
}
