/** What commands start, find, and end: real processes, as a user types them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { tinyModel } from '../fixtures/models/tiny-models.js'
import { runCommand } from './command.js'
import { REDIS_URL, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const QUICK = ['--no-calibrate', '--sessions', '1', '--batch-pairs', '8']
const OTHER_MODEL = tinyModel('two-logit')

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-'))
  await writeFile(join(folder, 'lines.txt'), 'green pears\nretry the failed job\nred apples\n')
})
afterAll(() => rm(folder, { recursive: true }))

const rankmill = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  runCommand(args, folder, { RANKMILL_PREFIX: stage().prefix, REDIS_URL, ...env })

/** A command that is left running, and what it has said on standard error. */
function started(args: string[], env: NodeJS.ProcessEnv = {}): { child: ChildProcess; said: () => string } {
  const child = spawn(process.execPath, [resolve('dist/cli/main.js'), ...args], {
    cwd: folder,
    env: { ...process.env, RANKMILL_PREFIX: stage().prefix, REDIS_URL, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  stage().onEnd(() => child.kill('SIGKILL'))
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said += chunk
  })
  return { child, said: () => said }
}

async function codeOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null) await once(child, 'close')
  return child.exitCode
}

describe('the workers that a command starts', () => {
  it('serve the models that its flags name, of which the first of --model scores', async () => {
    const models = ['--model', TINY_MODEL, '--cascade', `${OTHER_MODEL}:2`, '--workers', '1']
    const { code, stdout } = await rankmill(['rerank', '-q', 'failed job', 'lines.txt', ...models, ...QUICK])
    expect(code).toBe(0)
    const by = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).scored_by)
    expect(by).toEqual([TINY_MODEL, TINY_MODEL, OTHER_MODEL])
  })

  it('get what the command resolved, whatever the environment says', async () => {
    const args = ['rerank', '-q', 'job', 'lines.txt', '--model', TINY_MODEL, '--workers', '1', ...QUICK]
    // A child that took these would serve another model, or start no more.
    const environment = { RANKMILL_MODEL: OTHER_MODEL, RANKMILL_SESSIONS: '2', RANKMILL_THREADS: '1' }
    const { code, stdout } = await rankmill([...args, '--threads', '0'], environment)
    expect(code).toBe(0)
    expect(JSON.parse(stdout.split('\n')[0] ?? '')).toMatchObject({ scored_by: TINY_MODEL })
  })

  it('are none on a Redis that was named, unless their number is', async () => {
    const { child, said } = started(['rerank', '-q', 'job', 'lines.txt', '--redis', REDIS_URL])
    await until('it says so', () => /no worker is alive on queue "rerank": .*--workers N/.test(said()))
    expect(await stage().client().workers()).toEqual([])
    const before = said()
    child.kill('SIGINT')
    expect(await codeOf(child)).toBe(130)
    expect(said().slice(before.length)).toMatch(/^rankmill: stopping; Ctrl-C again stops at once\n$/)
  })
})

describe('Ctrl-C', () => {
  it.each([
    ['rerank', ['rerank', '-q', 'job', 'lines.txt', '--workers', '1']],
    ['up', ['up', '--workers', '1', '--port', '0']],
  ])('ends %s while it opens', async (_name, args) => {
    // It loads ONNX Runtime before it says that it is ready.
    const { child, said } = started([...args, '--model', TINY_MODEL, ...QUICK])
    await until('it has connected', async () => /rankmill-producer/.test(String(await stage().redis.client('LIST'))))
    child.kill('SIGINT')
    await codeOf(child)
    expect(said().trim().split('\n').at(-1)).toMatch(/^rankmill: stopping.*; Ctrl-C again stops at once$/)
    await until('its worker is gone', async () => (await stage().client().workers()).length === 0)
  })
})

describe('Ctrl-C, once work has begun,', () => {
  const passages = () =>
    Array.from({ length: 40 }, (_, i) => `${JSON.stringify({ _id: `p${i}`, text: `job ${i} of the queue` })}\n`).join(
      '',
    )
  const requests = () =>
    Array.from({ length: 400 }, (_, i) => `${JSON.stringify({ id: `r${i}`, query: 'job', documents: [`${i}`] })}\n`)

  it.each([
    ['bench', ['bench', '--models', TINY_MODEL, '--ms', '5000'], /measuring/],
    [
      'tune',
      [
        'tune',
        '--corpus',
        'c.jsonl',
        '--queries',
        'c.jsonl',
        '--models',
        TINY_MODEL,
        '--filters',
        'none',
        '--dtypes',
        'fp32',
        '--workers',
        '1',
        '--depth',
        '20',
      ],
      /started 1 worker/,
    ],
    ['demo', ['demo', '--model', TINY_MODEL, '--keep', '--workers', '1'], /staying up/],
  ])('ends %s in one line', async (_name, args, begun) => {
    await writeFile(join(folder, 'c.jsonl'), passages())
    const { child, said } = started(args)
    await until('it has begun', () => begun.test(said()))
    child.kill('SIGINT')
    expect(await codeOf(child)).toBe(130)
    const end = said().slice(said().indexOf('rankmill: stopping'))
    expect(end).toBe('rankmill: stopping; Ctrl-C again stops at once\n')
  })

  it('twice, ends a batch that has nobody to work for it', async () => {
    await writeFile(join(folder, 'requests.jsonl'), requests().join(''))
    const { child, said } = started(['batch', 'run', 'requests.jsonl', '-o', 'answers.jsonl', '--redis', REDIS_URL])
    await until('it waits', () => /no worker is alive/.test(said()))
    child.kill('SIGINT')
    await until('it heard', () => /Ctrl-C again stops at once/.test(said()))
    child.kill('SIGINT')
    expect(await codeOf(child)).toBe(130)
    expect(said()).toMatch(/interrupted: .*\n[\s\S]*run the same command again to go on\n$/)
  })
})

describe('rankmill up', () => {
  it('is found by clients and commands of its folder until it ends', async () => {
    const { child, said } = started(['up', '--model', TINY_MODEL, '--workers', '1', '--port', '0', ...QUICK])
    await until('it is up', () => /rankmill: up: /.test(said()))
    const nameless = { REDIS_URL: '', RANKMILL_PREFIX: '' }
    const listed = await rankmill(['failed', 'ls'], nameless)
    expect(listed).toMatchObject({ code: 0, stderr: 'rankmill: no failed jobs\n' })
    const library = pathToFileURL(resolve('dist/producer/index.js'))
    const program = `import { RerankClient } from '${library}'
      const client = new RerankClient()
      const { results } = await client.rerank({ query: 'job', documents: ['a', 'b'] })
      console.log(results.length)
      await client.close()`
    const example = spawn(process.execPath, ['--input-type=module', '-e', program], {
      cwd: folder,
      env: { ...process.env, ...nameless },
    })
    const [answer] = await once(example.stdout, 'data')
    expect(String(answer)).toBe('2\n')
    child.kill('SIGINT')
    expect(await codeOf(child)).toBe(0)
    expect(await readdir(join(folder, '.rankmill/up'))).toEqual([])
  })

  it.each([
    ['a port that is none', ['--port', '99999'], /--port: .*65535; got "99999"/],
    [
      'a host that is none here',
      ['--port', '8080', '--host', '192.0.2.1'],
      /--port: cannot listen on 192\.0\.2\.1:8080/,
    ],
    ['a model with a typing error', ['--model', 'rankmil-small'], /did you mean rankmill-small\?/],
  ])('refuses %s before anything starts', async (_name, args, message) => {
    const { code, stderr } = await rankmill(['up', ...args])
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/started|metrics-port/)
    expect(code).toBe(2)
  })
})

it('up says that its port is taken before it starts anything', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  stage().onEnd(() => other.close())
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  for (const [args, env] of [
    [['--port', String(port)], {}],
    [[], { RANKMILL_PORT: String(port) }],
  ] as const) {
    const { code, stderr } = await rankmill(['up', ...args], { REDIS_URL: '', ...env })
    expect(stderr).toContain(`--port: cannot listen on 127.0.0.1:${port}: another process listens there; --port 0`)
    expect(stderr).not.toMatch(/started|Redis/)
    expect(code).toBe(2)
  }
})

it('a folder that cannot be written is no defect', async () => {
  const here = await mkdtemp(join(tmpdir(), 'rankmill-'))
  await writeFile(join(here, '.rankmill'), '')
  await writeFile(join(here, 'lines.txt'), 'one\n')
  const { code, stderr } = await runCommand(['rerank', '-q', 'job', 'lines.txt'], here, { REDIS_URL: '' })
  expect(stderr).toMatch(/^rankmill: output_unwritable: .*\.rankmill\/redis/)
  expect(stderr).not.toMatch(/defect|\n {4}at /)
  expect(code).toBe(2)
  await rm(here, { recursive: true })
})

it.each([
  ['models ls > /dev/full', 2, /^rankmill: output_unwritable: standard output: no space is left/],
  ['models ls | head -c 5', 0, /^$/],
  ['models ls 2>&- >/dev/null', 0, /^$/],
])('what nobody can read is said, or no fault: %s', async (command, code, stderr) => {
  const main = `"${process.execPath}" "${resolve('dist/cli/main.js')}"`
  const child = spawn('bash', ['-c', `set -o pipefail; ${main} ${command}`], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  const [ended] = await once(child, 'close')
  expect([ended, said]).toEqual([code, expect.stringMatching(stderr)])
})
