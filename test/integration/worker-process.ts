/** Worker processes as users run them, for tests that kill them. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import { expect } from 'vitest'
import { type Stage, TINY_MODEL } from './stage.js'

const MAIN = resolve('dist/cli/main.js')

/** Starts one; killed when the stage ends. */
export function workerProcess(s: Stage, ...flags: string[]): ChildProcess {
  const { redis, prefix } = s.options()
  const quick = [
    '--model',
    TINY_MODEL,
    '--threads',
    '1',
    '--sessions',
    '1',
    '--batch-pairs',
    '4',
    '--no-calibrate',
    '--metrics-port',
    '0',
  ]
  const child = fork(MAIN, ['worker', ...quick, '--log-level', 'error', ...flags], {
    env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  s.onEnd(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return child
}

/** Waits until it has its model and takes jobs. */
export const ready = async (child: ChildProcess) => {
  const [message] = await once(child, 'message')
  expect(message).toMatchObject({ type: 'ready' })
}
