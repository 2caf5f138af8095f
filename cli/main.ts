/** The command `rankmill`. */
import { createRequire } from 'node:module'
import { Command, CommanderError } from 'commander'
import { batchCommand } from './commands/batch.js'
import { benchCommand } from './commands/bench.js'
import { corpusCommand } from './commands/corpus.js'
import { demoCommand } from './commands/demo.js'
import { doctorCommand } from './commands/doctor.js'
import { failedCommand } from './commands/failed.js'
import { keysCommand } from './commands/keys.js'
import { modelsCommand } from './commands/models.js'
import { rerankCommand } from './commands/rerank.js'
import { serveCommand } from './commands/serve.js'
import { tuneCommand } from './commands/tune.js'
import { upCommand } from './commands/up.js'
import { workerCommand } from './commands/worker.js'
import { describeError, EXIT, exitCodeOf, note } from './exit.js'

const { version } = createRequire(import.meta.url)('rankmill/package.json') as { version: string }

const program = new Command('rankmill')
  .description('Rerank documents with cross-encoders, through a durable queue.')
  .version(version)
  .showHelpAfterError('(add --help for the options)')

for (const command of [
  upCommand(),
  serveCommand(),
  keysCommand(),
  workerCommand(),
  rerankCommand(),
  batchCommand(),
  corpusCommand(),
  modelsCommand(),
  failedCommand(),
  doctorCommand(),
  tuneCommand(),
  benchCommand(),
  demoCommand(),
]) {
  program.addCommand(command)
}
exitInsteadOfCommander(program)

// A reader that has seen enough, as `head` does, is no fault.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage
  } else {
    note(describeError(error))
    process.exitCode = exitCodeOf(error)
  }
}

/** Commander exits with 1 on bad usage; ours is 2. */
function exitInsteadOfCommander(command: Command): void {
  command.exitOverride()
  for (const sub of command.commands) exitInsteadOfCommander(sub)
}
