/** Redis as a child of its keeper, which it does not outlive, however the keeper ends. */
import { spawn } from 'node:child_process'
import type { Address } from './data-folder.js'
import type { Launch } from './redis-launch.js'

export interface ServerProcess {
  /** Resolves when Redis has ended. */
  readonly ended: Promise<void>
  readonly hasEnded: () => boolean
  /** What it wrote to standard error, the end of it. */
  readonly said: () => string
  /** Ends it at once. */
  readonly kill: () => void
}

/**
 * A shell starts Redis and waits for the end of a pipe that the keeper holds: a keeper that was killed closes it as well.
 * File 3 is that pipe, 4 the lock on the data, which Redis alone is to have.
 */
const GUARD = `
exec 5<&0
"$@" <&5 3<&- &
server=$!
exec 4<&- 5<&-
{
  read -r _ <&3
  kill -TERM $server
  for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -0 $server || exit; done
  kill -KILL $server
} 2>/dev/null &
guard=$!
wait $server
code=$?
kill $guard
exit $code`

/** @param lock the locked file, which Redis inherits and so holds for as long as it lives */
export function startServer(launch: Launch, address: Address, dataDir: string, lock: number): ServerProcess {
  const child = spawn('sh', ['-c', GUARD, 'rankmill-redis', launch.command, ...argumentsOf(launch, address)], {
    cwd: dataDir,
    env: { ...process.env, ...launch.env },
    stdio: ['pipe', 'ignore', 'pipe', 'pipe', lock],
  })
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said = `${said}${chunk}`.slice(-2000)
  })
  // A command line can be read by everybody, standard input cannot.
  child.stdin?.on('error', () => undefined)
  child.stdin?.end('password' in address ? `requirepass ${address.password}\n` : '')
  const pipe = child.stdio[3]
  pipe?.on('error', () => undefined)
  let hasEnded = false
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      said += error.message
      resolve()
    })
    child.once('exit', () => resolve())
  }).then(() => {
    hasEnded = true
    pipe?.destroy()
  })
  return { ended, hasEnded: () => hasEnded, said: () => said, kill: () => pipe?.destroy() }
}

function argumentsOf({ args, container }: Launch, address: Address): string[] {
  const stdin = '-'
  if ('socket' in address)
    return [...args, '--port', '0', '--unixsocket', address.socket, '--unixsocketperm', '600', stdin]
  const filled = args.map((arg) => arg.replaceAll('{port}', String(address.port)))
  // In a container Redis listens to its own port 6379, which only its name on this machine leads to.
  if (container) return [...filled, '--protected-mode', 'yes', stdin]
  return [...filled, '--bind', '127.0.0.1', '--protected-mode', 'yes', '--port', String(address.port), stdin]
}
