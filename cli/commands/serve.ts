/** `rankmill serve`: the API server alone, for workers that run elsewhere. */
import { Command } from 'commander'
import { onSignals } from '../../shared/lifecycle.js'
import { EXIT, note } from '../exit.js'
import { addOptions, optionsOf, SERVER_OPTIONS } from '../options.js'

export function serveCommand(): Command {
  const command = new Command('serve')
    .description(
      'Serve the HTTP API on a Redis that workers share (docs/api.md). Ctrl-C stops; what was taken stays queued.',
    )
    .action(async () => run(command))
  return addOptions(command, SERVER_OPTIONS)
}

async function run(command: Command): Promise<void> {
  const options = optionsOf(command)
  // Loaded here, so that no other command waits for what only a server needs.
  const { ApiServer } = await import('../../server/server.js')
  const server = await ApiServer.start(options)
  note(`rankmill: the API is at ${server.url}, its documentation at ${server.url}/docs`)
  await new Promise<void>((resolve) => {
    onSignals(
      () => void server.close().then(resolve),
      () => process.exit(EXIT.interrupted),
    )
  })
}
