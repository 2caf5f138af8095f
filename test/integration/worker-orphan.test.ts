/** A worker whose parent is killed ends, whatever it was doing, and says nothing of it. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isAlive } from '../../shared/process-identity.js'
import { TINY_MODEL, until, useStage } from './stage.js'

const PARENT = fileURLToPath(new URL('./worker-parent.js', import.meta.url))
const stage = useStage()

interface Family {
  readonly parent: ChildProcess
  readonly pid: number
  /** What the worker wrote. */
  readonly said: () => string
}

async function family(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Family> {
  const { redis, prefix } = stage().options()
  const parent = fork(PARENT, ['worker', '--metrics-port', '0', '--threads', '1', ...flags], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix, ...env },
  })
  let said = ''
  parent.stderr?.on('data', (chunk) => {
    said += String(chunk)
  })
  const [{ pid }] = (await once(parent, 'message')) as [{ pid: number }]
  stage().onEnd(async () => {
    parent.kill('SIGKILL')
    if (isAlive(pid)) process.kill(pid, 'SIGKILL')
  })
  return { parent, pid, said: () => said }
}

async function killed({ parent, pid, said }: Family): Promise<string> {
  // What it writes from now on is what it says as an orphan; the pipe's end is the last of it.
  const before = said().length
  const ended = once(parent, 'close')
  parent.kill('SIGKILL')
  await ended
  await until('the orphan ends', () => !isAlive(pid))
  return said().slice(before)
}

test('before it listens', async () => {
  expect(await killed(await family(['--model', TINY_MODEL]))).toBe('')
})

test('while its model does not come', async () => {
  let asked = 0
  const hub = createServer(() => {
    asked++
  }).listen(0, '127.0.0.1')
  await once(hub, 'listening')
  const cache = mkdtempSync(join(tmpdir(), 'rankmill-orphan-'))
  try {
    const flags = ['--model', 'some/model', '--cache-dir', cache, '--log-level', 'warn']
    const found = await family(flags, { HF_ENDPOINT: `http://127.0.0.1:${(hub.address() as AddressInfo).port}` })
    await until('the hub is asked', () => asked > 0)
    expect(await killed(found)).toBe('')
  } finally {
    hub.closeAllConnections()
    hub.close()
    rmSync(cache, { recursive: true, force: true })
  }
})

test('while it loads its model and measures it', async () => {
  const cache = mkdtempSync(join(tmpdir(), 'rankmill-orphan-'))
  try {
    const found = await family(['--model', 'rankmill-small', '--cache-dir', cache, '--log-level', 'info'])
    await until('the worker begins to load', () => found.said().includes('metrics and health'))
    expect(await killed(found)).not.toContain('batch shape measured')
  } finally {
    rmSync(cache, { recursive: true, force: true })
  }
})

test('when it takes jobs', async () => {
  const found = await family(['--model', TINY_MODEL, '--no-calibrate', '--log-level', 'warn'])
  const [message] = await once(found.parent, 'message')
  expect(message).toMatchObject({ type: 'ready' })
  expect(await killed(found)).toBe('')
})
