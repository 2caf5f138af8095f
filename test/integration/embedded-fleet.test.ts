/** `rankmill up` with a Redis and workers of its own: what they are told, and what is left when it is killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, test, vi } from 'vitest'
import { readRunning } from '../../cli/embedded/data-folder.js'
import { urlOf } from '../../cli/embedded/redis-instance.js'
import { isAlive } from '../../shared/process-identity.js'
import { PATIENCE } from './embedded-redis-stage.js'
import { TINY_MODEL, useStage } from './stage.js'

const stage = useStage()

interface Up {
  readonly child: ChildProcess
  readonly folder: string
  readonly said: () => string
}

async function up(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Up> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'rankmill-up-')))
  const { REDIS_URL, RANKMILL_REDIS, ...rest } = process.env
  const quick = ['--workers', '2', '--model', resolve(TINY_MODEL), '--no-calibrate', '--port', '0']
  const child = spawn(process.execPath, [resolve('dist/cli/main.js'), 'up', ...quick, ...flags], {
    cwd: folder,
    env: { ...rest, RANKMILL_PREFIX: stage().prefix, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said += String(chunk)
  })
  stage().onEnd(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM')
      await once(child, 'exit')
    }
    rmSync(folder, { recursive: true, force: true, maxRetries: 100 })
  })
  await vi.waitFor(() => expect(said).toMatch(/started 2 worker|error|rankmill: \w+: /), PATIENCE)
  return { child, folder, said: () => said }
}

test('a command that is killed leaves neither workers nor keeper nor Redis behind, and they say nothing', async () => {
  const { child, folder, said } = await up([])
  const running = readRunning(join(folder, '.rankmill', 'redis'))
  const client = stage().client({ redis: urlOf(running!.address) })
  const workers = await client.workers()
  await client.close()
  expect(workers).toHaveLength(2)
  const all = [...workers.map(({ pid }) => pid), running!.keeper.pid, running!.server!.pid]
  expect(all.filter(isAlive)).toEqual(all)
  const before = said().length
  const closed = once(child, 'close')
  child.kill('SIGKILL')
  await closed
  await vi.waitFor(() => expect(all.filter(isAlive)).toEqual([]), PATIENCE)
  expect(said().slice(before)).toBe('')
})

test('workers do what the command was told, not what the environment says', async () => {
  const { said } = await up(['--metrics-host', '127.0.0.1'], { RANKMILL_METRICS_HOST: 'nowhere.invalid' })
  expect(said()).toContain('started 2 worker')
})
