/** A file of requests in, a file of answers out: what a user relies on, through kills and losses done for real. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type BatchFileOptions, openBatch } from '../../producer/batch/batch-file.js'
import type { BatchReport } from '../../producer/batch/batch-report.js'
import { retryFailed } from '../../producer/batch/retry-failed.js'
import type { RerankWorker } from '../../worker/worker.js'
import { type Stage, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const MAIN = resolve('dist/cli/main.js')
let folder: string
let input: string
let output: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-batch-'))
  input = join(folder, 'in.jsonl')
  output = join(folder, 'out.jsonl')
})
afterEach(() => rm(folder, { recursive: true }))

const DOCUMENTS = 10
function requestLine(i: number): string {
  const documents = Array.from(
    { length: DOCUMENTS },
    (_, k) => `passage ${k} of request ${i} about ${(i * 7 + k) % 13}`,
  )
  return JSON.stringify({
    custom_id: `request-${i}`,
    method: 'POST',
    url: '/v1/rerank',
    body: { query: `query ${i}`, documents },
  })
}

async function writeRequests(count: number): Promise<void> {
  await writeFile(input, `${Array.from({ length: count }, (_, i) => requestLine(i)).join('\n')}\n`)
}

async function runBatch(s: Stage, options: Partial<BatchFileOptions> = {}): Promise<BatchReport> {
  const run = await openBatch({ input, output, ...options })
  return run.run(s.client())
}

interface OutputLine {
  id: string
  custom_id: string | null
  response: { status_code: number; body: { id: string; results: { index: number; relevance_score: number }[] } } | null
  error: { code: string; message: string; line: number } | null
}

async function outputLines(path = output): Promise<OutputLine[]> {
  const text = await readFile(path, 'utf8')
  expect(text.endsWith('\n')).toBe(true)
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line) as OutputLine)
}

/** `rankmill batch run` as a process of its own, on the stage's Redis and workers. */
function runnerProcess(s: Stage, ...flags: string[]): ChildProcess {
  const { redis, prefix } = s.options()
  const child = spawn(process.execPath, [MAIN, 'batch', 'run', input, '-o', output, '--no-embedded', ...flags], {
    env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  s.onEnd(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return child
}

async function linesWritten(): Promise<number> {
  return existsSync(output) ? (await readFile(output, 'utf8')).split('\n').length - 1 : 0
}

const scored = async (workers: readonly RerankWorker[]): Promise<number> => {
  let sum = 0
  for (const { metrics } of workers) {
    const { values } = await metrics.pairs.get()
    sum += values.filter(({ labels }) => labels.source === 'model').reduce((total, { value }) => total + value, 0)
  }
  return sum
}

describe('an output', () => {
  it('answers every line, in the order of the input, in the batch shape', async () => {
    await stage().worker()
    await writeRequests(50)
    const report = await runBatch(stage())
    const lines = await outputLines()
    expect(lines.map(({ custom_id }) => custom_id)).toEqual(Array.from({ length: 50 }, (_, i) => `request-${i}`))
    for (const { response, error, custom_id } of lines) {
      expect(error).toBeNull()
      expect(response).toMatchObject({ status_code: 200, body: { id: custom_id } })
      const scores = response?.body.results.map(({ relevance_score }) => relevance_score) ?? []
      expect(scores).toHaveLength(DOCUMENTS)
      expect(scores).toEqual([...scores].sort((a, b) => b - a))
    }
    expect(report).toMatchObject({ status: 'finished', totals: { requests: 50, failed: 0, pairs: 500 } })
  })

  it('has the same bytes with one worker or three, small batches or large, and in any order of the same lines', async () => {
    await writeRequests(60)
    const outputs: string[] = []
    for (const [workers, batchPairs] of [
      [1, 1],
      [3, 8],
      [1, 64],
    ] as const) {
      const s = stage()
      const started = await Promise.all(
        Array.from({ length: workers }, () => s.worker({ batchPairs, scoreCacheTtlMs: 0 })),
      )
      output = join(folder, `out-${workers}-${batchPairs}.jsonl`)
      await runBatch(s)
      outputs.push(await readFile(output, 'utf8'))
      output = join(folder, `unordered-${workers}-${batchPairs}.jsonl`)
      await runBatch(s, { unordered: true })
      const sorted = (text: string) => text.split('\n').sort().join('\n')
      expect(sorted(await readFile(output, 'utf8'))).toBe(sorted(outputs[0] ?? ''))
      for (const worker of started) await worker.close()
    }
    expect(new Set(outputs).size).toBe(1)
  })

  it('has an error for each line that cannot be answered, with its number and code; the rest goes on', async () => {
    await stage().worker({ unservedMs: 1000 })
    const lines = [
      requestLine(0),
      'not json',
      '',
      requestLine(0),
      JSON.stringify({ custom_id: 'no-query', body: { documents: ['a'] } }),
      JSON.stringify({ custom_id: 'model', body: { query: 'q', documents: ['a'], model: 'unheard-of' } }),
      JSON.stringify({ id: 'bare', query: 'q', documents: ['a', 'b'], top_n: 1 }),
    ]
    await writeFile(input, `\uFEFF${lines.join('\r\n')}`)
    const run = await openBatch({ input, output })
    const report = await run.run(stage().client({ unservedMs: 1000 }))
    const found = await outputLines()
    expect(found.map(({ custom_id, error }) => [custom_id, error?.line, error?.code])).toEqual([
      ['request-0', undefined, undefined],
      [null, 2, 'invalid_line'],
      ['request-0', 4, 'duplicate_custom_id'],
      ['no-query', 5, 'invalid_request'],
      ['model', 6, 'unknown_model'],
      ['bare', undefined, undefined],
    ])
    expect(found.at(-1)?.response?.body.results).toHaveLength(1)
    expect(report.totals).toMatchObject({ requests: 6, failed: 4 })
  })

  it.each(['gz', 'zst'])('may be .%s, and so may the input', async (ending) => {
    await stage().worker()
    await writeRequests(30)
    await runBatch(stage())
    const plain = await readFile(output, 'utf8')
    output = `${output}.${ending}`
    if (ending === 'gz') {
      await writeFile(`${input}.gz`, gzipSync(await readFile(input)))
      input = `${input}.gz`
    } else {
      // What this run writes, it can read.
      const copy = await import('../../producer/lines/compression.js')
      await writeFile(`${input}.zst`, await copy.compressedFrame(await readFile(input), 'zstd'))
      input = `${input}.zst`
    }
    await runBatch(stage())
    const { decompressed } = await import('../../producer/lines/compression.js')
    const chunks: Buffer[] = []
    const bytes = await readFile(output)
    async function* once() {
      yield bytes
    }
    for await (const chunk of decompressed(once(), ending === 'gz' ? 'gzip' : 'zstd')) chunks.push(chunk)
    expect(Buffer.concat(chunks).toString()).toBe(plain)
    if (ending === 'gz') expect(gunzipSync(bytes).toString()).toBe(plain)
  })

  it('is read from standard input and written to standard output', async () => {
    await stage().worker()
    await writeRequests(5)
    const { redis, prefix } = stage().options()
    const child = spawn(process.execPath, [MAIN, 'batch', 'run', '-', '-o', '-', '--no-embedded'], {
      env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix },
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    child.stdin?.end(await readFile(input))
    const chunks: Buffer[] = []
    for await (const chunk of child.stdout ?? []) chunks.push(chunk as Buffer)
    const printed = Buffer.concat(chunks).toString().trim().split('\n')
    expect(printed.map((line) => (JSON.parse(line) as OutputLine).custom_id)).toEqual(
      [0, 1, 2, 3, 4].map((i) => `request-${i}`),
    )
  })
})

describe('a run', () => {
  it('whose runner is killed at any moment goes on: nothing lost, nothing twice, nothing scored again', async () => {
    const s = stage()
    const workers = [await s.worker({ scoreCacheTtlMs: 0 })]
    await writeRequests(600)
    for (const stopAt of [1, 200, 400]) {
      const runner = runnerProcess(s, '--checkpoint-ms', '50')
      await until(`${stopAt} lines`, async () => (await linesWritten()) >= stopAt)
      runner.kill('SIGKILL')
      await once(runner, 'exit')
      // As a power cut may leave it:
      await writeFile(output, '{"id":"line-', { flag: 'a' })
    }
    const report = await runBatch(s)
    const lines = await outputLines()
    expect(lines.map(({ custom_id }) => custom_id)).toEqual(Array.from({ length: 600 }, (_, i) => `request-${i}`))
    expect(report.totals).toMatchObject({ requests: 600, failed: 0, pairs: 600 * DOCUMENTS, starts: 4 })
    expect(await scored(workers)).toBe(600 * DOCUMENTS)

    const first = await readFile(output, 'utf8')
    output = join(folder, 'undisturbed.jsonl')
    await runBatch(s)
    expect(await readFile(output, 'utf8')).toBe(first)
  })

  it('whose Redis forgets everything goes on', async () => {
    const s = stage()
    // A database of its own, since all of it is emptied.
    const redis = s.options().redis.replace(/(:\d+)\/?\d*$/, '$1/9')
    const database = s.redis.duplicate({ db: 9 })
    s.onEnd(() => database.disconnect())
    await s.worker({ scoreCacheTtlMs: 0, redis })
    await writeRequests(300)
    const run = await openBatch({ input, output, options: { resubmitMs: 200 } })
    const running = run.run(s.client({ redis }))
    for (const least of [20, 120, 220]) {
      await until(`${least} requests`, () => run.progress().requests >= least)
      await database.flushdb()
    }
    expect((await running).totals).toMatchObject({ requests: 300, failed: 0 })
    expect((await outputLines()).map(({ id }) => id)).toEqual(Array.from({ length: 300 }, (_, i) => `line-${i + 1}`))
  })

  it('whose Redis loses some of what it held goes on', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await writeRequests(300)
    const run = await openBatch({ input, output, options: { resubmitMs: 200 } })
    const running = run.run(s.client())
    for (const least of [20, 120, 220]) {
      await until(`${least} requests`, () => run.progress().requests >= least)
      const keys = await s.keys()
      if (keys.length > 0) await s.redis.unlink(keys)
    }
    expect((await running).totals).toMatchObject({ requests: 300, failed: 0 })
  })

  it('says what it waits for while the queue takes nothing, and goes on when it does', async () => {
    const s = stage()
    await writeRequests(60)
    const client = s.client({ maxQueuedJobs: 2 })
    // Nobody takes them yet, and they are as many as may wait.
    for (const query of ['a', 'b']) await client.submit({ query, documents: ['x'], priority: 500 })
    const run = await openBatch({ input, output })
    const running = run.run(client)
    await until('it waits', () => run.progress().waitingFor?.includes('its bounds are 2') === true)
    await s.worker()
    expect((await running).totals).toMatchObject({ requests: 60, failed: 0 })
  })

  it('leaves nothing of its requests in Redis', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await writeRequests(100)
    await runBatch(s)
    expect(await s.keys('request:*')).toEqual([])
    expect(await s.keys('result:*')).toEqual([])
  })

  it('that brought its own Redis and workers goes on after a kill, with new ones where they are gone', async () => {
    await writeRequests(1500)
    const { RANKMILL_REDIS: _, REDIS_URL: __, ...env } = process.env
    const quick = ['--threads', '1', '--sessions', '1', '--batch-pairs', '4', '--no-calibrate', '--workers', '1']
    const start = () =>
      spawn(process.execPath, [MAIN, 'batch', 'run', input, '-o', output, '--model', TINY_MODEL, ...quick], {
        cwd: folder,
        env: { ...env, RANKMILL_SCORE_CACHE_TTL_MS: '0' },
        stdio: 'ignore',
      })
    const killed = start()
    await until('lines', async () => (await linesWritten()) > 100, 60_000)
    killed.kill('SIGKILL')
    await once(killed, 'exit')
    const [code] = await once(start(), 'exit')
    expect(code).toBe(0)
    expect((await outputLines()).map(({ id }) => id)).toEqual(Array.from({ length: 1500 }, (_, i) => `line-${i + 1}`))
  })

  it('that is told to stop finishes what is under way and exits with 130; told twice, it stops at once', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await writeRequests(2000)
    for (const signals of [1, 2]) {
      const before = await linesWritten()
      const runner = runnerProcess(s)
      await until('lines', async () => (await linesWritten()) > before)
      for (let i = 0; i < signals; i++) runner.kill('SIGINT')
      const [code] = await once(runner, 'exit')
      expect(code).toBe(130)
      expect(await linesWritten()).toBeLessThan(2000)
      expect(JSON.parse(await readFile(`${output}.report.json`, 'utf8'))).toMatchObject({ status: 'interrupted' })
    }
    expect((await runBatch(s)).status).toBe('finished')
    expect(await outputLines()).toHaveLength(2000)
  })

  // Longer than it takes to put a corpus and to say stop.
  const LONG = 500

  it('reads the corpus that it began with, whatever becomes of it meanwhile', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    const client = s.client()
    const passages = (words: string) => Array.from({ length: 20 }, (_, i) => ({ id: `p${i}`, text: `${words} ${i}` }))
    const ids = passages('').map(({ id }) => id)
    const lines = Array.from({ length: LONG }, (_, i) =>
      JSON.stringify({ query: `q ${i}`, documents: { corpus: 'c', ids } }),
    )
    await writeFile(input, lines.join('\n'))
    await client.putCorpus('c', passages('as it was'))
    await runBatch(s)
    const before = await readFile(output, 'utf8')

    output = join(folder, 'disturbed.jsonl')
    const first = await openBatch({ input, output, options: { maxWindowRequests: 32 } })
    const running = first.run(client)
    await until('some answers', () => first.progress().requests > 0)
    await client.putCorpus('c', passages('changed'), { replace: true })
    first.stop()
    expect((await running).status).toBe('interrupted')
    expect(first.progress().requests).toBeLessThan(LONG)
    const report = await runBatch(s)
    expect(await readFile(output, 'utf8')).toBe(before)
    expect(report.corpora).toEqual({ c: '1' })

    output = join(folder, 'later.jsonl')
    await runBatch(s)
    expect(await readFile(output, 'utf8')).not.toBe(before)
  })

  it('that is finished is not run again', async () => {
    await writeRequests(3)
    const worker = await stage().worker()
    await runBatch(stage())
    const before = await readFile(output, 'utf8')
    await worker.close()
    const again = await openBatch({ input, output })
    expect(again.wasFinished).toBe(true)
    await again.close()
    expect(again.report()).toMatchObject({ status: 'finished', totals: { requests: 3 } })
    expect(await readFile(output, 'utf8')).toBe(before)
  })

  it('with too many errors stops, and says so', async () => {
    await stage().worker()
    await writeFile(input, '{}\n'.repeat(100))
    await expect(runBatch(stage(), { maxErrors: 9 })).rejects.toMatchObject({ code: 'too_many_errors' })
    await runBatch(stage(), { maxErrors: 100 })
    expect(await outputLines()).toHaveLength(100)
  })

  it('runs again just what failed', async () => {
    const s = stage()
    await s.worker()
    const corpusLine = JSON.stringify({
      custom_id: 'later',
      body: { query: 'q', documents: { corpus: 'later', ids: ['a'] } },
    })
    await writeFile(input, [requestLine(0), corpusLine, 'bad', requestLine(1), requestLine(0)].join('\n'))
    await runBatch(s)
    expect((await outputLines()).map(({ error }) => error?.code)).toEqual([
      undefined,
      'unknown_corpus',
      'invalid_line',
      undefined,
      'duplicate_custom_id',
    ])
    const client = s.client()
    await client.putCorpus('later', [{ id: 'a', text: 'here now' }])
    const report = await retryFailed(client, { input, output }, () => undefined)
    expect((await outputLines()).map(({ custom_id, error }) => [custom_id, error?.code])).toEqual([
      ['request-0', undefined],
      ['later', undefined],
      [null, 'invalid_line'],
      ['request-1', undefined],
      ['request-0', 'duplicate_custom_id'],
    ])
    expect(report).toMatchObject({
      totals: { requests: 5, failed: 2 },
      errors: { invalid_line: 1, duplicate_custom_id: 1 },
    })
    const again = await openBatch({ input, output })
    expect(again.wasFinished).toBe(true)
    await again.close()
  })

  it.each(['before', 'after'])(
    'that runs again what failed may be killed %s its answers are in place',
    async (when) => {
      const s = stage()
      await s.worker()
      const line = (corpus: string) => JSON.stringify({ query: 'q', documents: { corpus, ids: ['a'] } })
      await writeFile(input, [line('first'), line('second')].join('\n'))
      await runBatch(s)
      const client = s.client()
      await client.putCorpus('first', [{ id: 'a', text: 'here now' }])
      const before = await readFile(output)
      await retryFailed(client, { input, output }, () => undefined)
      const run = `${output}.rankmill`
      // As the kill left it: the new answers are noted, and the file that holds them is in its place or not.
      const after = JSON.parse(await readFile(join(run, 'checkpoint.2'), 'utf8'))
      await writeFile(join(run, 'checkpoint.2'), JSON.stringify({ ...after, merging: 2 }))
      await writeFile(join(run, 'retried-0.jsonl'), 'of the lines that failed then')
      if (when === 'before') {
        await rename(output, join(run, 'merged.2'))
        await writeFile(output, before)
      }
      const opened = await openBatch({ input, output })
      expect(opened.wasFinished).toBe(true)
      await opened.close()
      expect((await outputLines()).map(({ error }) => error?.code)).toEqual([undefined, 'unknown_corpus'])
      await client.putCorpus('second', [{ id: 'a', text: 'here too' }])
      const report = await retryFailed(client, { input, output }, () => undefined)
      expect(report).toMatchObject({ totals: { requests: 2, failed: 0 }, errors: {} })
      expect((await outputLines()).map(({ error }) => error)).toEqual([null, null])
      expect((await readdir(run)).filter((name) => !/^(checkpoint|custom-ids)/.test(name))).toEqual([])
    },
  )
})

describe('what requests do not say', () => {
  it('the run fills in, and what they say goes before it', async () => {
    const s = stage()
    await s.worker()
    await s.client().putCorpus('c', [{ id: 'a', text: 'here' }])
    const long = Array.from({ length: 120 }, (_, i) => `word${i % 50}`).join(' ')
    const lines = [
      { query: 'q', documents: { corpus: 'c', ids: ['a', 'gone'] } },
      { query: 'q', documents: { corpus: 'c', ids: ['a', 'gone'], missing: 'error' } },
      { query: 'q', documents: ['x', 'y', 'z', long] },
      { query: 'q', documents: ['x', 'y', 'z', long], top_n: 2, strategy: { long_documents: 'truncate' } },
    ]
    await writeFile(input, lines.map((line) => JSON.stringify(line)).join('\n'))
    await runBatch(s, { missing: 'skip', defaults: { topN: 4, strategy: { long_documents: 'windows' } } })
    const [skipped, missing, windows, truncated] = await outputLines()
    expect(skipped?.response?.body).toMatchObject({ results: [{ id: 'a' }], missing: ['gone'] })
    expect(missing?.error).toMatchObject({ code: 'missing_documents', message: expect.stringContaining('gone') })
    expect(windows?.response?.body).toMatchObject({ usage: { pairs: 4, windows: expect.any(Number), truncated: 0 } })
    expect(windows?.response?.body.results).toHaveLength(4)
    expect(truncated?.response?.body).toMatchObject({ usage: { pairs: 4, truncated: 1 } })
    expect(truncated?.response?.body.results).toHaveLength(2)
  })
})

describe('what cannot be', () => {
  it('another input, or other options, under the same output are refused, naming both', async () => {
    await stage().worker()
    await writeRequests(3)
    await runBatch(stage())
    await expect(runBatch(stage(), { defaults: { topN: 3 } })).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining('topN was null and is 3'),
    })
    await writeRequests(4)
    await expect(runBatch(stage())).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining(input),
    })
    await runBatch(stage(), { overwrite: true })
    expect(await outputLines()).toHaveLength(4)
  })

  it('a file that no run wrote is not written over', async () => {
    await writeRequests(1)
    await writeFile(output, 'precious')
    await expect(runBatch(stage())).rejects.toMatchObject({ code: 'output_exists' })
    expect(await readFile(output, 'utf8')).toBe('precious')
  })

  it('two runs cannot write one output', async () => {
    await writeRequests(1)
    const first = await openBatch({ input, output })
    await expect(openBatch({ input, output })).rejects.toMatchObject({ code: 'output_in_use' })
    await first.close()
  })

  it('the input cannot be the output', async () => {
    await writeRequests(1)
    output = input
    await expect(runBatch(stage())).rejects.toMatchObject({ code: 'output_exists' })
    expect(await readFile(input, 'utf8')).toBe(`${requestLine(0)}\n`)
  })

  it('an input that is not there, or ends too early, is an error that names it; what came before is answered', async () => {
    await stage().worker()
    await expect(runBatch(stage(), { input: join(folder, 'none.jsonl') })).rejects.toMatchObject({
      code: 'input_unreadable',
      message: expect.stringContaining('none.jsonl'),
    })
    await writeRequests(200)
    const whole = gzipSync(await readFile(input))
    const cut = join(folder, 'cut.jsonl.gz')
    await writeFile(cut, whole.subarray(0, whole.length - 40))
    await expect(runBatch(stage(), { input: cut })).rejects.toMatchObject({ code: 'input_unreadable' })
    expect((await outputLines()).length).toBeGreaterThan(0)
  })

  it('a full disk stops the run, which goes on when there is room', async () => {
    const s = stage()
    await s.worker()
    await writeRequests(100)
    const { redis, prefix } = s.options()
    const limited = spawn(
      'bash',
      ['-c', `ulimit -f 16; exec "${process.execPath}" "${MAIN}" batch run "${input}" -o "${output}" --no-embedded`],
      {
        env: { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    const said: string[] = []
    limited.stderr.on('data', (chunk) => said.push(String(chunk)))
    const [code] = await once(limited, 'exit')
    expect(said.join('')).toContain('output_unwritable')
    expect(code).toBe(2)
    const { length } = await outputLines()
    expect(length).toBeLessThan(100)
    await runBatch(s)
    expect(await outputLines()).toHaveLength(100)
  })
})
