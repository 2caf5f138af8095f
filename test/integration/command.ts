/** The command line as a user runs it: a process of its own, with what it said. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'

export interface Said {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** `rankmill` with arguments, in a folder, to its end. */
export async function runCommand(args: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<Said> {
  const child = spawn(process.execPath, [resolve('dist/cli/main.js'), ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk) => {
    said.stdout += String(chunk)
  })
  child.stderr.on('data', (chunk) => {
    said.stderr += String(chunk)
  })
  const [code] = await once(child, 'close')
  return { code, ...said }
}
