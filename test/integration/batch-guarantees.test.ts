/** What a batch promises of its output (docs/batches.md, "What is promised"), each through the failure that would break it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, statfsSync, statSync } from 'node:fs'
import { link, mkdtemp, open, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type BatchFileOptions, openBatch } from '../../producer/batch/batch-file.js'
import type { BatchReport } from '../../producer/batch/batch-report.js'
import type { BatchClient } from '../../producer/batch/persistent-request.js'
import { retryFailed } from '../../producer/batch/retry-failed.js'
import type { RerankClient } from '../../producer/client.js'
import { Corpora } from '../../shared/corpus/corpora.js'
import { RankmillError } from '../../shared/errors.js'
import { OPTIONS, RESULT_OPTIONS } from '../../shared/options.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { runCommand, type Said } from './command.js'
import { type Stage, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const MAIN = resolve('dist/cli/main.js')
const NO_REDIS = { RANKMILL_REDIS: 'redis://127.0.0.1:1' }
let folder: string
let input: string
let output: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-guarantees-'))
  input = join(folder, 'in.jsonl')
  output = join(folder, 'out.jsonl')
})
afterEach(() => rm(folder, { recursive: true }))

const requestLine = (i: number) =>
  JSON.stringify({ custom_id: `r${i}`, body: { query: `q ${i}`, documents: ['a', 'b'] } })
const requests = (count: number, path = input) =>
  writeFile(path, Array.from({ length: count }, (_, i) => `${requestLine(i)}\n`).join(''))

async function runBatch(s: Stage, options: Partial<BatchFileOptions> = {}, client: BatchClient = s.client()) {
  return (await openBatch({ input, output, ...options })).run(client)
}

/** Runs until some requests are answered, and is stopped. */
async function interrupted(s: Stage, options: Partial<BatchFileOptions> = {}): Promise<BatchReport> {
  const run = await openBatch({ input, output, ...options, options: { ...options.options, maxWindowRequests: 32 } })
  const running = run.run(s.client())
  await until('some answers', () => run.progress().requests > 0)
  run.stop()
  const report = await running
  expect(report.status).toBe('interrupted')
  return report
}

function environment(s: Stage): NodeJS.ProcessEnv {
  const { redis, prefix } = s.options()
  return { RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
}

function batchRun(env: NodeJS.ProcessEnv, ...flags: string[]): Promise<Said> {
  return runCommand(['batch', 'run', input, '-o', output, '--no-embedded', ...flags], folder, env)
}

const linesOf = (path = output) => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [])
const idsOf = (path = output) => linesOf(path).map((line) => (JSON.parse(line) as { custom_id: string }).custom_id)
const idsUpTo = (count: number) => Array.from({ length: count }, (_, i) => `r${i}`)
const errorsOf = (path = output) =>
  linesOf(path).map((line) => (JSON.parse(line) as { error: { code: string } | null }).error?.code)

/** Every file beside the output, as it is: nothing may have touched it. */
function traces(): unknown {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true }).map((entry) =>
    join(entry.parentPath, entry.name),
  )
  return paths.sort().map((path) => {
    const { ino, size, mtimeMs, ctimeMs } = lstatSync(path)
    return [path, ino, size, mtimeMs, ctimeMs]
  })
}

describe('an output that is not what the run left', () => {
  it.each([
    ['removed', async () => rm(output), /is gone; the run had written \d+ bytes/],
    ['cut off', async () => truncate(output, 100), /has 100 bytes, of \d+ that the run wrote/],
    ['zeros', async () => writeFile(output, Buffer.alloc(statSync(output).size)), /has other content/],
    ['replaced', async () => writeFile(output, 'x'.repeat(100_000)), /has other content/],
  ])('is refused where it was %s, and left alone; --overwrite begins anew', async (_, damage, said) => {
    const s = stage()
    await s.worker()
    await requests(400)
    await interrupted(s)
    await damage()
    const left = existsSync(output) ? await readFile(output) : undefined
    const before = traces()
    const refused = await batchRun(environment(s))
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('output_changed') })
    expect(refused.stderr).toMatch(said)
    expect(refused.stderr).toContain('--overwrite')
    expect(traces()).toEqual(before)
    expect(existsSync(output) ? await readFile(output) : undefined).toEqual(left)
    expect((await runBatch(s, { overwrite: true })).status).toBe('finished')
    expect(idsOf()).toEqual(idsUpTo(400))
  })

  it('is refused where the run was finished, too', async () => {
    const s = stage()
    await s.worker()
    await requests(5)
    await runBatch(s)
    await truncate(output, 10)
    await expect(openBatch({ input, output })).rejects.toMatchObject({ code: 'output_changed' })
  })

  it('but a copy of it is gone on with', async () => {
    const s = stage()
    await s.worker()
    await requests(400)
    await interrupted(s)
    await writeFile(`${output}.copy`, await readFile(output))
    await rename(`${output}.copy`, output)
    const report = await runBatch(s)
    expect(report.totals).toMatchObject({ requests: 400, starts: 2 })
    expect(idsOf()).toEqual(idsUpTo(400))
  })

  it.each([
    ['removed', async () => rm(output)],
    ['replaced', async () => writeFile(`${output}.new`, '').then(() => rename(`${output}.new`, output))],
    ['emptied', async () => truncate(output, 0)],
  ])('ends the run where it is %s while it runs', async (_, damage) => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await requests(3000)
    const run = await openBatch({ input, output, options: { maxWindowRequests: 32 } })
    const running = run.run(s.client())
    running.catch(() => undefined)
    await until('some lines', () => linesOf().length > 0)
    await damage()
    await expect(running).rejects.toMatchObject({ code: 'output_changed' })
    expect(run.report().status).toBe('interrupted')
  })
})

describe('a runner that slept past its lease', () => {
  const asleep = async (s: Stage): Promise<ChildProcess & { said: string[] }> => {
    const flags = ['--lease-ms', '1000', '--checkpoint-ms', '100', '--max-window-requests', '32']
    const child = spawn(process.execPath, [MAIN, 'batch', 'run', input, '-o', output, '--no-embedded', ...flags], {
      env: { ...process.env, ...environment(s) },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    s.onEnd(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    })
    const said: string[] = []
    child.stderr?.on('data', (chunk) => said.push(String(chunk)))
    await until('some lines', () => linesOf().length > 20)
    child.kill('SIGSTOP')
    const lease = `${output}.rankmill/lease.1`
    await until('its lease has run out', () => Date.now() - statSync(lease).mtimeMs > 1100)
    return Object.assign(child, { said })
  }

  it('ends with an error, never "finished", where another took over, whose output is whole', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await requests(3000)
    const sleeper = await asleep(s)
    const report = await runBatch(s, { options: { leaseMs: 1000 } })
    expect(report).toMatchObject({ status: 'finished', checked: { items: 3000, answers: 3000 } })
    const whole = await readFile(output)
    const ended = once(sleeper, 'exit')
    sleeper.kill('SIGCONT')
    const [code] = await ended
    expect(code).toBe(2)
    expect(sleeper.said.join('')).toMatch(/output_in_use.*another runner took over/)
    expect(sleeper.said.join('')).not.toContain('finished')
    expect(await readFile(output)).toEqual(whole)
    expect(idsOf()).toEqual(idsUpTo(3000))
  })

  it('goes on where the other was refused, which has left no trace', async () => {
    const s = stage()
    await s.worker({ scoreCacheTtlMs: 0 })
    await requests(1500)
    const sleeper = await asleep(s)
    const before = traces()
    const other = { options: { leaseMs: 1000 }, defaults: { topN: 1 } }
    await expect(openBatch({ input, output, ...other })).rejects.toMatchObject({ code: 'output_exists' })
    expect(traces()).toEqual(before)
    const ended = once(sleeper, 'exit')
    sleeper.kill('SIGCONT')
    expect((await ended)[0]).toBe(0)
    expect(sleeper.said.join('')).toContain('finished: 1500 requests')
    expect(idsOf()).toEqual(idsUpTo(1500))
  })
})

describe('what shapes the results', () => {
  it('belongs to the run, whether it came from a flag, the environment or a default', async () => {
    const s = stage()
    await s.worker()
    await requests(400)
    await interrupted(s, { options: { dtype: 'fp32', maxTokens: 128 } })
    const resumed = (options: BatchFileOptions['options']) => openBatch({ input, output, options })
    const fp32 = { dtype: 'fp32', maxTokens: 128 } as const
    await expect(resumed({ ...fp32, dtype: 'int8' })).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining('dtype was "fp32" and is "int8"'),
    })
    for (const [name, to, said] of [
      ['truncation', 'only_second', 'truncation was "longest_first" and is "only_second"'],
      ['maxWindows', 4, 'maxWindows was 32 and is 4'],
      ['windowOverlapPercent', 10, 'windowOverlapPercent was 25 and is 10'],
      ['model', 'other', 'model was "rankmill-small" and is "other"'],
      ['filter', 'other', 'filter was "rankmill-filter" and is "other"'],
      ['device', 'cuda', 'device was "auto" and is "cuda"'],
    ] as const) {
      await expect(resumed({ ...fp32, [name]: to })).rejects.toMatchObject({ message: expect.stringContaining(said) })
    }
    const flagged = await batchRun({ ...environment(s), RANKMILL_MAX_TOKENS: '64' }, '--dtype', 'fp32')
    expect(flagged).toMatchObject({ code: 2, stderr: expect.stringContaining('maxTokens was 128 and is 64') })
    // What was a default is no less the run's.
    const byDefault = await batchRun(environment(s), '--dtype', 'fp32')
    expect(byDefault.stderr).toContain('maxTokens was 128 and is 0')

    const report = await runBatch(s, { options: { ...fp32, dtype: 'int8' }, allowModelChange: true })
    expect(report).toMatchObject({ status: 'finished', changes: [{ what: 'dtype', from: 'fp32', to: 'int8' }] })
    expect(report.changes[0]?.after).toBeGreaterThan(0)
  })

  it('is what the table of options says: no limit, no speed, no address is', () => {
    const names = [...RESULT_OPTIONS].sort()
    expect(names).toEqual(
      ['device', 'dtype', 'filter', 'maxTokens', 'maxWindows', 'model', 'truncation', 'windowOverlapPercent'].sort(),
    )
    for (const name of names) expect(OPTIONS[name].group).toBe('worker')
  })

  it('is not what only shapes the way: priority, windows in flight, times', async () => {
    const s = stage()
    await s.worker()
    await requests(400)
    await interrupted(s, { defaults: { priority: 600 } })
    const report = await runBatch(s, { defaults: { priority: 700 }, options: { resubmitMs: 5000, batchPairs: 3 } })
    expect(report).toMatchObject({ status: 'finished', changes: [] })
  })
})

/** A client whose workers have another model from some answer on. */
function withFingerprints(client: RerankClient, fingerprintOf: (answers: number) => string): BatchClient {
  let answers = 0
  return {
    rerank: async (request, wait) => {
      const result = await client.rerank(request, wait)
      return Object.assign(result, { dtype: 'int8', fingerprint: fingerprintOf(answers++) })
    },
    forget: (ids) => client.forget(ids),
    workers: () => client.workers(),
    pinCorpus: (name, holder, ttlMs, version) => client.pinCorpus(name, holder, ttlMs, version),
    releaseCorpus: (name, holder) => client.releaseCorpus(name, holder),
  }
}

describe('the model', () => {
  it('is that of the first answer: another one ends the run, in mid-run and after a start', async () => {
    const s = stage()
    await s.worker()
    await requests(300)
    const changing = withFingerprints(s.client(), (answers) => (answers < 100 ? 'first' : 'second'))
    await expect(runBatch(s, {}, changing)).rejects.toMatchObject({
      code: 'model_changed',
      message: expect.stringMatching(/began with model ".*" int8 first, and the workers answer with int8 second/),
    })
    const written = linesOf().length
    expect(written).toBeLessThan(300)
    await expect(
      runBatch(
        s,
        {},
        withFingerprints(s.client(), () => 'second'),
      ),
    ).rejects.toMatchObject({
      code: 'model_changed',
    })
    expect(new Set(linesOf().map((line) => JSON.parse(line).response.body.fingerprint))).toEqual(new Set(['first']))

    const report = await runBatch(
      s,
      {},
      withFingerprints(s.client(), () => 'first'),
    )
    expect(report).toMatchObject({ status: 'finished', changes: [] })
    expect(idsOf()).toEqual(idsUpTo(300))
  })

  it('is asked for again where an answer of another one only waited in Redis', async () => {
    const s = stage()
    await s.worker()
    await requests(100)
    const once = withFingerprints(s.client(), (answers) => (answers === 50 ? 'stale' : 'first'))
    expect(await runBatch(s, {}, once)).toMatchObject({ status: 'finished', changes: [] })
    expect(idsOf()).toEqual(idsUpTo(100))
  })

  it('may change where that is allowed, and the report says so', async () => {
    const s = stage()
    await s.worker()
    await requests(300)
    const changing = withFingerprints(s.client(), (answers) => (answers < 100 ? 'first' : 'second'))
    const report = await runBatch(s, { allowModelChange: true }, changing)
    expect(report.changes).toMatchObject([{ what: expect.stringContaining('model '), from: 'int8 first' }])
    expect(report.status).toBe('finished')
  })
})

describe('the corpus', () => {
  const ids = ['a', 'b']
  const passages = (words: string) => ids.map((id) => ({ id, text: `${words} ${id}` }))
  const corpusLines = (count: number) =>
    writeFile(
      input,
      Array.from({ length: count }, (_, i) =>
        JSON.stringify({ query: `q ${i}`, documents: { corpus: 'c', ids } }),
      ).join('\n'),
    )
  /** As when the run's pins have run out. */
  const letPinsRunOut = async (client: RerankClient) => {
    const newest =
      readdirSync(`${output}.rankmill`)
        .filter((name) => name.startsWith('checkpoint.'))
        .at(-1) ?? ''
    const { runId } = JSON.parse(await readFile(join(`${output}.rankmill`, newest), 'utf8')) as { runId: string }
    await client.releaseCorpus('c', runId)
  }

  it.each([
    ['replaced', (client: RerankClient) => client.putCorpus('c', passages('changed'), { replace: true })],
    ['removed', (_: RerankClient, s: Stage) => new Corpora(s.redis, keysOf(s.prefix, 'rerank')).remove('c')],
  ])('whose version is gone, because it was %s, ends the run: not one line becomes an error', async (_, change) => {
    const s = stage()
    await s.worker()
    const client = s.client()
    await client.putCorpus('c', passages('as it was'))
    await corpusLines(300)
    await interrupted(s)
    await letPinsRunOut(client)
    await change(client, s)
    const before = await readFile(output)
    await expect(runBatch(s)).rejects.toMatchObject({
      code: 'corpus_changed',
      message: expect.stringMatching(/began with version 1 of corpus "c".*--allow-corpus-change/),
    })
    expect(await readFile(output)).toEqual(before)

    await client.putCorpus('c', passages('here again'), { replace: true })
    const report = await runBatch(s, { allowCorpusChange: true })
    expect(report).toMatchObject({
      status: 'finished',
      totals: { failed: 0 },
      changes: [{ what: 'corpus c', from: '1' }],
    })
  })

  it('that goes in the middle of a run ends it, too', async () => {
    const s = stage()
    const client = s.client()
    await client.putCorpus('c', passages('as it was'))
    await corpusLines(300)
    const run = await openBatch({ input, output })
    const running = run.run(client)
    running.catch(() => undefined)
    await until('its requests wait', async () => run.progress().inFlight > 0 && (await s.keys('request:*')).length > 0)
    await letPinsRunOut(client)
    await client.putCorpus('c', passages('changed'), { replace: true })
    await s.worker()
    await expect(running).rejects.toMatchObject({ code: 'corpus_changed' })
    expect(errorsOf()).toEqual([])
    const report = await runBatch(s, { allowCorpusChange: true })
    expect(report).toMatchObject({ totals: { failed: 0 }, corpora: { c: '2' } })
  })
})

describe('running again what failed', () => {
  const broken = () => writeFile(input, `${requestLine(0)}\nbad\n`)

  it('takes no other input and no other options than the run had', async () => {
    const s = stage()
    await s.worker()
    await broken()
    await runBatch(s)
    const before = await readFile(output)
    const other = join(folder, 'other.jsonl')
    await requests(2, other)
    const retry = (options: Partial<BatchFileOptions>) =>
      retryFailed(s.client(), { ...options, input: options.input ?? input, output }, () => undefined)
    await expect(retry({ input: other })).rejects.toMatchObject({ code: 'output_exists' })
    await expect(retry({ defaults: { topN: 1 } })).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining('topN'),
    })
    expect(await readFile(output)).toEqual(before)
  })

  it('puts the answers behind a symbolic link, which stays one', async () => {
    const s = stage()
    await s.worker()
    const target = join(folder, 'target.jsonl')
    await symlink('target.jsonl', output)
    const line = JSON.stringify({ query: 'q', documents: { corpus: 'later', ids: ['a'] } })
    await writeFile(input, `${requestLine(0)}\n${line}\n`)
    await runBatch(s)
    expect(lstatSync(output).isSymbolicLink()).toBe(true)
    expect(errorsOf(target)).toEqual([undefined, 'unknown_corpus'])
    await s.client().putCorpus('later', [{ id: 'a', text: 'here now' }])
    await retryFailed(s.client(), { input, output }, () => undefined)
    expect(lstatSync(output).isSymbolicLink()).toBe(true)
    expect(errorsOf(target)).toEqual([undefined, undefined])
    // Two names of one file are one output.
    const other = join(folder, 'other-name.jsonl')
    await symlink(target, other)
    expect((await openBatch({ input, output: other })).wasFinished).toBe(true)
  })
})

describe('the input', () => {
  const LINES = 300
  /** 20 kB a line: far more than what is looked at of a file to tell it from others. */
  const longLines = () =>
    writeFile(
      input,
      Array.from({ length: LINES }, (_, i) => `${requestLine(i).replace('"b"', `"${'b'.repeat(20_000)}"`)}\n`).join(''),
    )
  /** Between two samples, so that the file looks the same. */
  const change = async (at: number) => {
    const file = await open(input, 'r+')
    await file.write('c', at)
    await file.close()
  }
  const EARLY = 120_000
  const LATE = 5_860_000

  it('is compared as far as it was read, byte by byte', async () => {
    const s = stage()
    await s.worker()
    await longLines()
    await interrupted(s)
    await change(EARLY)
    await expect(openBatch({ input, output })).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringMatching(/another input: .*in\.jsonl is not what it was up to line \d+/),
    })
    await longLines()
    // What is not read yet may still change.
    await change(LATE)
    expect((await runBatch(s)).totals).toMatchObject({ requests: LINES, starts: 2 })
    expect((await openBatch({ input, output })).wasFinished).toBe(true)
    await change(EARLY)
    await expect(openBatch({ input, output })).rejects.toMatchObject({ code: 'output_exists' })
    await expect(retryFailed(s.client(), { input, output }, () => undefined)).resolves.toBeUndefined()
  })

  it('is no less sure through a pipe', async () => {
    const s = stage()
    await s.worker()
    await longLines()
    const content = await readFile(input)
    const piped = (bytes: Buffer) => Readable.from(bytes.length > 0 ? [bytes] : []) as AsyncIterable<Buffer>
    await interrupted(s, { input: piped(content) })
    const changed = Buffer.from(content)
    changed[EARLY] = 0x63
    await expect(runBatch(s, { input: piped(changed) })).rejects.toMatchObject({ code: 'output_exists' })
    expect((await runBatch(s, { input: piped(content) })).totals).toMatchObject({ requests: LINES, starts: 2 })
    const longer = Buffer.concat([content, Buffer.from(`${requestLine(LINES)}\n`)])
    await expect(openBatch({ input: piped(longer), output })).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining('standard input goes on after line 300'),
    })
    expect((await openBatch({ input: piped(content), output })).wasFinished).toBe(true)
  })

  it('that changes between a run and a repair of what failed is noticed before anything is put in place', async () => {
    const s = stage()
    await s.worker()
    await longLines()
    await writeFile(input, 'bad\n', { flag: 'a' })
    await runBatch(s)
    const before = await readFile(output)
    await change(EARLY)
    await expect(retryFailed(s.client(), { input, output }, () => undefined)).rejects.toMatchObject({
      code: 'output_exists',
      message: expect.stringContaining('another input'),
    })
    expect(await readFile(output)).toEqual(before)
  })
})

describe('the output is none of the inputs', () => {
  it.each([
    ['its own name', async () => input],
    ['a hard link', async () => link(input, output).then(() => output)],
    ['a symbolic link', async () => symlink(input, output).then(() => output)],
    [
      'the name of its report',
      async () => {
        await rename(input, `${output}.report.json`)
        input = `${output}.report.json`
        return output
      },
    ],
  ])('by %s, --overwrite or not', async (_, name) => {
    await requests(3)
    output = await name()
    const content = await readFile(input)
    const before = traces()
    for (const flags of [[], ['--overwrite']]) {
      const { code, stderr } = await batchRun(NO_REDIS, ...flags)
      expect(code).toBe(2)
      expect(stderr).toMatch(/output_exists: .* an input as well/)
    }
    expect(await readFile(input)).toEqual(content)
    expect(traces()).toEqual(before)
  })

  it('not even through standard input or output', async () => {
    await requests(3)
    const content = await readFile(input)
    const shell = (line: string) =>
      runCommandLine(`"${process.execPath}" "${MAIN}" batch run ${line} --no-embedded`, { ...process.env, ...NO_REDIS })
    expect(await shell(`- -o "${input}" --overwrite < "${input}"`)).toMatch(/2: .*same file as standard input/s)
    expect(await shell(`"${input}" -o - >> "${input}"`)).toMatch(/2: .*standard output: is the same file/s)
    expect(await readFile(input)).toEqual(content)
  })

  it.each(['corpus', 'queries', 'run', 'qrels'])('of a retrieval run: --%s', async (which) => {
    const files = { corpus: 'c.jsonl', queries: 'q.jsonl', run: 'in.trec', qrels: 'qrels.tsv' }
    await writeFile(join(folder, files.corpus), '{"_id":"d1","text":"a"}\n')
    await writeFile(join(folder, files.queries), '{"_id":"q1","text":"a"}\n')
    await writeFile(join(folder, files.run), 'q1 Q0 d1 1 1.0 bm25\n')
    await writeFile(join(folder, files.qrels), 'q1 0 d1 1\n')
    await link(join(folder, files[which as keyof typeof files]), output)
    const before = readFileSync(output, 'utf8')
    const flags = Object.entries(files).flatMap(([name, file]) => [`--${name}`, file])
    const { code, stderr } = await runCommand(
      ['batch', 'trec', ...flags, '-o', output, '--overwrite', '--no-embedded'],
      folder,
      NO_REDIS,
    )
    expect(stderr).toMatch(/output_exists: .* an input as well/)
    expect(code).toBe(2)
    expect(readFileSync(output, 'utf8')).toBe(before)
  })
})

async function runCommandLine(line: string, env: NodeJS.ProcessEnv): Promise<string> {
  const child = spawn('bash', ['-c', line], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk) => (said += String(chunk)))
  const [code] = await once(child, 'close')
  return `${code}: ${said}`
}

describe('--overwrite', () => {
  it('takes nothing away before Redis and the workers are there', async () => {
    const s = stage()
    await s.worker()
    await requests(3)
    await runBatch(s)
    const before = await readFile(output)
    const { code, stderr } = await batchRun(NO_REDIS, '--overwrite')
    expect(code).toBe(3)
    expect(stderr).toContain('redis_unavailable')
    expect(await readFile(output)).toEqual(before)
    expect((await openBatch({ input, output })).wasFinished).toBe(true)
  })

  it('of a run that began so and was interrupted goes on; of one that did not, or is finished, begins anew', async () => {
    const s = stage()
    await s.worker()
    await writeFile(output, 'what was there')
    await requests(400)
    await interrupted(s, { overwrite: true })
    const went = await runBatch(s, { overwrite: true })
    expect(went).toMatchObject({ status: 'finished', totals: { requests: 400, starts: 2 } })
    expect(idsOf()).toEqual(idsUpTo(400))
    expect((await runBatch(s, { overwrite: true })).totals).toMatchObject({ requests: 400, starts: 1 })

    await rm(output)
    await rm(`${output}.rankmill`, { recursive: true })
    await interrupted(s)
    expect((await runBatch(s, { overwrite: true })).totals).toMatchObject({ requests: 400, starts: 1 })
    // Other options are another run.
    await requests(300)
    await interrupted(s, { overwrite: true })
    const other = await runBatch(s, { overwrite: true, defaults: { topN: 1 } })
    expect(other.totals).toMatchObject({ requests: 300, starts: 1 })
  })
})

const isRoot = process.getuid?.() === 0
/** A file system of its own, where this user may make one. */
function mounted(s: Stage, options: string): string | undefined {
  const path = mkdtempSync(join(tmpdir(), 'rankmill-disk-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], { stdio: 'ignore' })
  } catch {
    rmdirSync(path)
    return undefined
  }
  s.onEnd(() => {
    execFileSync('umount', ['-l', path])
    rmdirSync(path)
  })
  return path
}

describe('a place that cannot be written', () => {
  it.skipIf(!isRoot)('because it is full ends the run, which goes on when there is room', async (context) => {
    const s = stage()
    const disk = mounted(s, 'size=256k')
    if (disk === undefined) return context.skip('no file system can be mounted here')
    await s.worker()
    await requests(2000)
    output = join(disk, 'out.jsonl')
    const full = await batchRun(environment(s), '--checkpoint-ms', '50')
    expect(full).toMatchObject({ code: 2, stderr: expect.stringContaining('output_unwritable') })
    expect(full.stderr).toContain('no space is left')
    expect(full.stderr).not.toMatch(/internal|defect|finished/)
    const lines = linesOf()
    expect(lines.length).toBeGreaterThan(10)
    expect(idsOf()).toEqual(idsUpTo(lines.length))
    execFileSync('mount', ['-o', 'remount,size=16m', disk])
    expect(await runBatch(s)).toMatchObject({ status: 'finished', checked: { items: 2000, answers: 2000 } })
    expect(idsOf()).toEqual(idsUpTo(2000))
  })

  it.skipIf(!isRoot)('because it is read-only is said, with what it is', async (context) => {
    const s = stage()
    const disk = mounted(s, 'ro,size=64k')
    if (disk === undefined) return context.skip('no file system can be mounted here')
    await requests(3)
    output = join(disk, 'out.jsonl')
    const { code, stderr } = await batchRun(NO_REDIS)
    expect(stderr).toMatch(/output_unwritable: .*out\.jsonl: it lies where nothing can be written/)
    expect(stderr).not.toMatch(/internal|defect/)
    expect(code).toBe(2)
  })

  it.skipIf(!isRoot).each([
    [
      'ro,size=64k',
      'rerank -q x DATA',
      /no private Redis can keep its data in .rankmill\/redis: it lies where nothing can be/,
    ],
    ['ro,size=64k', 'models add nosuch/model', /EROFS: read-only file system/],
    ['ro,size=64k', 'corpus build DATA -o built', /cannot build .*EROFS/],
    ['size=64k', 'rerank -q x DATA', /\.rankmill\/redis\/turn\.lock: no space is left/],
    ['size=64k', 'corpus build DATA -o built', /cannot build .*ENOSPC/],
  ])('and is the folder of the command is said: %s, %s', async (mount, words, said) => {
    const disk = mounted(stage(), mount)
    if (disk === undefined) return
    const data = join(folder, 'c.jsonl')
    await writeFile(data, '{"id":"a","text":"b"}\n')
    if (!mount.startsWith('ro')) await writeFile(join(disk, 'fill'), Buffer.alloc(1 << 20)).catch(() => undefined)
    const { code, stderr } = await runCommand(words.replace('DATA', data).split(' '), disk, { REDIS_URL: '' })
    expect(stderr).toMatch(said)
    expect(stderr).toMatch(/^rankmill: output_unwritable: /m)
    expect(stderr).not.toMatch(/internal|defect|redis_unavailable/)
    expect(code).toBe(2)
  })

  it.each([
    ['/proc/x.jsonl', /there is no such folder/],
    ['missing/out.jsonl', /there is no such folder/],
    ['in.jsonl/out.jsonl', /what should be its folder is none/],
    ['/dev/null', /is no file/],
  ])('such as %s is refused at once', async (where, said) => {
    await requests(3)
    const { code, stderr } = await runCommand(['batch', 'run', input, '-o', where, '--no-embedded'], folder, NO_REDIS)
    expect(stderr).toContain('output_unwritable')
    expect(stderr).toMatch(said)
    expect(code).toBe(2)
  })
})

describe('a finished run', () => {
  it('says that it was counted, and, run again, is over at once and changes nothing', async () => {
    const s = stage()
    await s.worker()
    await writeFile(input, `${requestLine(0)}\n\nbad\n${requestLine(0)}\n${requestLine(1)}`)
    const first = await batchRun(environment(s))
    const { size } = statSync(output)
    expect(first.stderr).toContain(`checked: 4 answers for 4 items of the input, ${size} bytes`)
    const before = traces()
    // Nothing is there that it could be run with.
    const again = await batchRun(NO_REDIS)
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('finished: 4 requests') })
    expect(again.stderr).toContain('checked: 4 answers')
    expect(traces()).toEqual(before)
    await rm(`${output}.report.json`)
    await batchRun(NO_REDIS)
    expect(JSON.parse(await readFile(`${output}.report.json`, 'utf8'))).toMatchObject({
      status: 'finished',
      checked: { items: 4, answers: 4, bytes: size },
    })
  })
})

describe('without an order', () => {
  it('a line that is not answered for long costs no more than its place', async () => {
    const s = stage()
    await s.worker()
    const count = 3000
    await requests(count)
    const client = s.client()
    let letGo: () => void = () => undefined
    const held = new Promise<void>((resolve) => {
      letGo = resolve
    })
    const slow: BatchClient = Object.assign(
      withFingerprints(client, () => 'same'),
      {
        rerank: async (...[request, wait]: Parameters<BatchClient['rerank']>) => {
          if (request.query === 'q 0') await held
          return client.rerank(request, wait)
        },
      },
    )
    const options = { unordered: true, options: { checkpointMs: 50, maxWindowRequests: 64 } }
    const run = await openBatch({ input, output, ...options })
    const running = run.run(slow)
    await until('all but one', () => run.progress().requests === count - 1)
    const checkpoint = () => readFileSync(join(`${output}.rankmill`, 'checkpoint.1'), 'utf8')
    await until('a checkpoint of them', () => JSON.parse(checkpoint()).totals.requests === count - 1)
    expect(JSON.parse(checkpoint())).toMatchObject({ mark: { line: 0 }, items: 0, beyond: [[2, count]] })
    expect(checkpoint().length).toBeLessThan(5000)
    run.abort()
    letGo()
    await running.catch((error) => expect(error).toBeInstanceOf(RankmillError))
    const report = await runBatch(s, options)
    expect(report).toMatchObject({ status: 'finished', totals: { requests: count }, checked: { answers: count } })
    expect(idsOf().sort()).toEqual(idsUpTo(count).sort())
  })
})

it.skipIf(!isRoot)(
  'a private Redis whose disk is full: the run waits or stops, and goes on when there is room',
  async (context) => {
    const s = stage()
    const disk = mounted(s, 'size=3m')
    if (disk === undefined) return context.skip('no file system can be mounted here')
    // Each is written to Redis' log: more than there is room for.
    const text = 'passage '.repeat(4000)
    const large = (i: number) => ({ custom_id: `r${i}`, body: { query: `q ${i}`, documents: [`${text}${i}`, `${i}`] } })
    const count = 300
    await writeFile(input, Array.from({ length: count }, (_, i) => `${JSON.stringify(large(i))}\n`).join(''))
    await symlink(disk, join(folder, '.rankmill'))
    const flags = ['--model', TINY_MODEL, '--workers', '1', '--no-calibrate', '--sessions', '1', '--cache-dir', folder]
    const child = spawn(process.execPath, [MAIN, 'batch', 'run', input, '-o', output, ...flags], {
      cwd: folder,
      env: { ...process.env, REDIS_URL: '', RANKMILL_REDIS: '' },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    s.onEnd(() => child.kill('SIGKILL'))
    let said = ''
    child.stderr.on('data', (chunk) => {
      said += chunk
    })
    const ended = once(child, 'close')
    const free = () => Number(statfsSync(disk).bavail) * statfsSync(disk).bsize
    await until('its disk is full', () => free() < 65_536 || child.exitCode !== null, 60_000)
    expect(free()).toBeLessThan(65_536)
    // No line becomes an error of what passes.
    expect(errorsOf().filter((code) => code !== undefined)).toEqual([])
    expect(said).not.toMatch(/internal|defect/)
    execFileSync('mount', ['-o', 'remount,size=64m', disk])
    const [code] = await ended
    // Once a minute, however much is tried meanwhile.
    expect(said.match(/MISCONF/g)?.length ?? 0).toBeLessThan(20)
    if (code !== 0) {
      expect(said).toMatch(/redis_read_only|redis_unavailable/)
      const again = await runCommand(['batch', 'run', input, '-o', output, ...flags], folder, { REDIS_URL: '' })
      expect(again).toMatchObject({ code: 0 })
    }
    expect(idsOf()).toEqual(idsUpTo(count))
    expect(errorsOf().filter((error) => error !== undefined)).toEqual([])
  },
  180_000,
)
