/** Servers and workers as processes, killed in the middle of a batch: the client sees a completed batch. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import { expect, it } from 'vitest'
import type { Answer } from './api.js'
import { REDIS_URL, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const REQUESTS = 1500

function run(args: string[]): ChildProcess {
  // The model is what requests mean that name none, before there is a worker that says so.
  const own = { REDIS_URL, RANKMILL_PREFIX: stage().prefix, RANKMILL_LOG_LEVEL: 'warn', RANKMILL_MODEL: TINY_MODEL }
  const env = { ...process.env, ...own }
  const child = spawn(process.execPath, [resolve('dist/cli/main.js'), ...args], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  stage().onEnd(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return child
}

function worker(): ChildProcess {
  return run([
    'worker',
    '--model',
    TINY_MODEL,
    '--metrics-port',
    '0',
    '--no-calibrate',
    '--threads',
    '1',
    '--lock-ms',
    '2000',
  ])
}

async function server(): Promise<{ url: string; child: ChildProcess }> {
  const dataDir = `.cache/test-server/${stage().prefix.replace(/\W/g, '')}`
  const flags = ['--lease-ms', '1000', '--checkpoint-ms', '50', '--max-window-requests', '64', '--resubmit-ms', '1000']
  const child = run(['serve', '--port', '0', '--data-dir', dataDir, ...flags])
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said += String(chunk)
  })
  const url = () => /the API is at (\S+),/.exec(said)?.[1]
  await until('the server listens', () => url() !== undefined, 60_000)
  return { url: url() ?? '', child }
}

async function json(url: string, init?: RequestInit): Promise<Answer['body']> {
  return (await fetch(url, init)).json()
}

it('completes a batch whose server and worker were killed', async () => {
  const servers = [await server(), await server()]
  const workers = [worker(), worker()]
  const form = new FormData()
  const lines = Array.from({ length: REQUESTS }, (_, i) =>
    JSON.stringify({ custom_id: `r${i}`, body: { query: `q ${i}`, documents: [`a ${i}`, 'b'] } }),
  )
  form.append('purpose', 'batch')
  form.append('file', new Blob([lines.join('\n')]), 'in.jsonl')
  const [first, second] = servers as [(typeof servers)[0], (typeof servers)[0]]
  const file = await json(`${first.url}/v1/files`, { method: 'POST', body: form })
  const body = JSON.stringify({ input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '1h' })
  const batch = await json(`${first.url}/v1/batches`, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json' },
  })
  const state = (url: string) => json(`${url}/v1/batches/${batch.id}`)
  const holder = async () => {
    const key = `${stage().prefix}:batch:rerank:${batch.id}`
    return stage().redis.hmget(key, 'holder', 'number')
  }
  await until('a part is done', async () => (await state(second.url)).request_counts.completed > 50, 60_000)
  const [, number] = await holder()
  // Whoever runs it has to go: the first of the two that the lease names is not known from outside.
  first.child.kill('SIGKILL')
  workers[0]?.kill('SIGKILL')
  await once(first.child, 'exit')
  const third = await server()
  second.child.kill('SIGKILL')
  await once(second.child, 'exit')
  const progress: number[] = []
  await until(
    'it is done',
    async () => {
      const { status, request_counts: counts } = await state(third.url)
      progress.push(counts.completed)
      return status === 'completed'
    },
    120_000,
  )
  expect(progress).toEqual([...progress].sort((a, b) => a - b))
  expect(Number((await holder())[1])).toBeGreaterThan(Number(number))
  const done = await state(third.url)
  expect(done.request_counts).toEqual({ total: REQUESTS, completed: REQUESTS, failed: 0 })
  const output = await (await fetch(`${third.url}/v1/files/${done.output_file_id}/content`)).text()
  const ids = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).custom_id)
  expect(ids).toEqual(Array.from({ length: REQUESTS }, (_, i) => `r${i}`))
})

it('completes a batch whose server slept past its lease, and woke while another ran it', async () => {
  const servers = [await server(), await server()]
  worker()
  const byUrl = async (url: string, lines: number) => {
    const form = new FormData()
    const line = (i: number) => JSON.stringify({ custom_id: `r${i}`, body: { query: `q ${i}`, documents: ['a', 'b'] } })
    form.append('purpose', 'batch')
    form.append('file', new Blob([Array.from({ length: lines }, (_, i) => line(i)).join('\n')]), 'in.jsonl')
    const file = await json(`${url}/v1/files`, { method: 'POST', body: form })
    const body = JSON.stringify({ input_file_id: file.id, endpoint: '/v1/rerank', completion_window: '1h' })
    return json(`${url}/v1/batches`, { method: 'POST', body, headers: { 'content-type': 'application/json' } })
  }
  const [first, second] = servers as [(typeof servers)[0], (typeof servers)[0]]
  // Nobody else may take it before the first one has it.
  second.child.kill('SIGSTOP')
  const batch = await byUrl(first.url, REQUESTS)
  const number = async () => Number(await stage().redis.hget(`${stage().prefix}:batch:rerank:${batch.id}`, 'number'))
  const at = async (url: string) => json(`${url}/v1/batches/${batch.id}`)
  await until('the first has done some', async () => (await at(first.url)).request_counts.completed > 50, 60_000)
  first.child.kill('SIGSTOP')
  second.child.kill('SIGCONT')
  await until('the second has it', async () => (await number()) === 2, 60_000)
  first.child.kill('SIGCONT')
  await until('it is done', async () => (await at(second.url)).status === 'completed', 120_000)
  const done = await at(first.url)
  expect(done.request_counts).toEqual({ total: REQUESTS, completed: REQUESTS, failed: 0 })
  const output = await (await fetch(`${first.url}/v1/files/${done.output_file_id}/content`)).text()
  const ids = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).custom_id)
  expect(ids).toEqual(Array.from({ length: REQUESTS }, (_, i) => `r${i}`))
  // One output, and nobody's leftovers.
  const { data } = await json(`${second.url}/v1/files`)
  expect(data.filter(({ purpose }: { purpose: string }) => purpose === 'batch_output')).toHaveLength(1)
}, 240_000)
