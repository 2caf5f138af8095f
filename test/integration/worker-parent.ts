/** A command that starts a worker and waits, for worker-orphan.test.ts to kill: says the worker's pid at once. */
import { fork } from 'node:child_process'
import { resolve } from 'node:path'

const child = fork(resolve('dist/cli/main.js'), process.argv.slice(2), {
  stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  detached: true,
  execArgv: [],
})
child.on('message', (message) => process.send?.(message))
process.send?.({ type: 'started', pid: child.pid })
