/** The command line as a user types it: real processes, their output and their exit codes. */
import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import { REDIS_URL, TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const MAIN = resolve('dist/cli/main.js')
const QUICK = ['--model', TINY_MODEL, '--no-calibrate', '--sessions', '1', '--batch-pairs', '8', '--workers', '1']

interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

function rankmill(
  args: string[],
  { input = '', env = {} }: { input?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  return new Promise((done) => {
    const child = spawn(process.execPath, [MAIN, ...args], {
      env: { ...process.env, RANKMILL_PREFIX: stage().prefix, ...env },
    })
    let [out, err] = ['', '']
    child.stdout.on('data', (data) => (out += data))
    child.stderr.on('data', (data) => (err += data))
    child.stdin.on('error', () => undefined)
    child.stdin.end(input)
    child.on('close', (code) => done({ code, out, err }))
  })
}

const lines = (out: string) =>
  out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-'))
  await writeFile(join(folder, 'plain.txt'), 'green pears\n\nretry the failed job\r\nred apples\n')
  await writeFile(
    join(folder, 'documents.jsonl'),
    '{"id":"a","text":"green pears"}\n{"id":"b","text":"retry the failed job"}\n',
  )
  await writeFile(join(folder, 'broken.jsonl'), '{"id":"a","text":"green pears"}\nnot json\n')
})
afterAll(() => rm(folder, { recursive: true }))

describe('rankmill rerank', () => {
  it('prints JSON lines in a pipe, best first, with sources; notices go to standard error', async () => {
    const { code, out, err } = await rankmill(['rerank', '-q', 'failed job', join(folder, 'plain.txt'), ...QUICK])
    expect(err).toMatch(/started 1 worker/)
    expect(code).toBe(0)
    const results = lines(out)
    expect(results.map(({ rank }) => rank)).toEqual([1, 2, 3])
    expect(new Set(results.map(({ source }) => source.replace(/.*:/, '')))).toEqual(new Set(['1', '3', '4']))
    expect(results[0].relevance_score).toBeGreaterThanOrEqual(results[1].relevance_score)
  })

  it('takes strategies', async () => {
    const long = ['--long-documents', 'windows', '--max-tokens', '16', '--prefilter', '1']
    const { code, out } = await rankmill(['rerank', '-q', 'failed job', ...long, ...QUICK], {
      input: `green pears\n${'retry the failed job of the queue '.repeat(5)}\nred apples\n`,
    })
    expect(code).toBe(0)
    const [first, second, third] = lines(out)
    expect(first).toMatchObject({ index: 1, scored_by: TINY_MODEL, window: { end: expect.any(Number) } })
    expect([second.scored_by, third.scored_by]).toEqual(['bm25', 'bm25'])
    const bad = await rankmill(['rerank', '-q', 'q', '--prefilter', 'most', join(folder, 'plain.txt'), ...QUICK])
    expect(bad.code).toBe(2)
    expect(bad.err).toMatch(/strategy\.prefilter\.keep: .*whole number/)
  })

  it('reads standard input and JSON lines, and cuts at --top-n', async () => {
    const { code, out } = await rankmill(['rerank', '-q', 'failed job', '--jsonl', '-n', '1', ...QUICK], {
      input: '{"id":"a","text":"green pears"}\n{"id":"b","text":"retry the failed job"}\n',
    })
    expect(code).toBe(0)
    expect(lines(out)).toHaveLength(1)
    expect(['a', 'b']).toContain(lines(out)[0].id)
  })

  it('takes records as every other command does: _id, title, integers as ids, tables', async () => {
    const input =
      '{"_id":12345678901234567890,"title":"Retry","text":"the failed job"}\n{"id":7,"text":"green pears"}\n'
    const { code, out } = await rankmill(['rerank', '-q', 'failed job', '--jsonl', ...QUICK], { input })
    expect(code).toBe(0)
    const texts = Object.fromEntries(lines(out).map(({ id, text }) => [id, text]))
    expect(texts).toEqual({ '12345678901234567890': 'Retry the failed job', '7': 'green pears' })
    await writeFile(join(folder, 'documents.csv'), 'id,title,text\nc1,Retry,the failed job\nc2,,"green, pears"\n')
    const table = await rankmill(['rerank', '-q', 'failed job', join(folder, 'documents.csv'), ...QUICK])
    const rows = Object.fromEntries(lines(table.out).map(({ id, text }) => [id, text]))
    expect(rows).toEqual({ c1: 'Retry the failed job', c2: 'green, pears' })
  })

  it('takes the scores of a first stage from JSON lines', async () => {
    const first = ['--jsonl', '--prefilter', '1', '--prefilter-model', 'first-stage']
    const input = '{"id":"a","text":"green pears","score":-1}\n{"id":"b","text":"red apples","score":2,"more":1}\n'
    const { code, out } = await rankmill(['rerank', '-q', 'failed job', ...first, ...QUICK], { input })
    expect(code).toBe(0)
    expect(lines(out)).toMatchObject([
      { id: 'b', scored_by: TINY_MODEL },
      { id: 'a', scored_by: 'first-stage' },
    ])
    const lacking = await rankmill(['rerank', '-q', 'q', ...first, ...QUICK], { input: '{"text":"green pears"}\n' })
    expect(lacking.code).toBe(2)
    expect(lacking.err).toMatch(/documents\.0\.score: .*"first-stage"/)
  })

  it('uses workers that are alive instead of starting its own', async () => {
    await stage().worker()
    const { code, out, err } = await rankmill(['rerank', '-q', 'job', join(folder, 'plain.txt'), '--no-embedded'])
    expect(code).toBe(0)
    expect(err).toMatch(/1 worker\(s\) alive/)
    expect(lines(out)).toHaveLength(3)
  })

  it.each([
    ['an empty query', ['-q', '', 'plain.txt'], /invalid_request: query: must not be empty/],
    ['no documents', ['-q', 'x'], /invalid_request: documents: must hold at least one document/],
    ['a file that is not there', ['-q', 'x', 'missing.txt'], /invalid_request: cannot read .*missing\.txt/],
    ['a broken line', ['-q', 'x', '--jsonl', 'broken.jsonl'], /invalid_request: .*broken\.jsonl:2: (not|must be) JSON/],
    ['no query', ['plain.txt'], /required option '-q/],
    ['an unknown flag', ['-q', 'x', '--nonsense'], /unknown option '--nonsense'/],
    [
      'a bad option',
      ['-q', 'x', 'plain.txt', '--max-documents', '0'],
      /invalid_configuration: --max-documents: .*got "0"/,
    ],
    [
      'a model that is not there',
      ['-q', 'x', 'plain.txt', '--model', './no-such-folder'],
      /unknown_model|invalid_model/,
    ],
  ])('refuses %s with exit code 2', async (_name, args, message) => {
    const paths = args.map((arg) => (/\.(txt|jsonl)$/.test(arg) ? join(folder, arg) : arg))
    const { code, out, err } = await rankmill([
      'rerank',
      ...paths,
      ...(args.includes('--model') ? ['--workers', '1'] : QUICK),
    ])
    expect(err).toMatch(message)
    expect(code).toBe(2)
    expect(out).toBe('')
    expect(err).not.toMatch(/\n {4}at /)
  })

  it('ends with exit code 3 where Redis does not answer', async () => {
    const { code, err } = await rankmill([
      'rerank',
      '-q',
      'x',
      join(folder, 'plain.txt'),
      '--redis',
      'redis://:secret@127.0.0.1:1',
    ])
    expect(code).toBe(3)
    expect(err).toMatch(/redis_unavailable: cannot reach Redis at redis:\/\/:\*\*\*@127\.0\.0\.1:1/)
    expect(err).not.toContain('secret')
  })
})

describe('rankmill failed', () => {
  it('lists, shows, retries and removes dead jobs', async () => {
    await stage().worker()
    const client = stage().client()
    await client.putCorpus('c', [{ id: 'a', text: 'one' }])
    const request = { id: 'dead', query: 'q', documents: { corpus: 'c', ids: ['a', 'b'] } }
    await expect(client.rerank(request)).rejects.toMatchObject({ code: 'missing_documents' })
    const listed = await rankmill(['failed', 'ls'])
    expect(lines(listed.out)).toMatchObject([
      { id: 'dead', part: '1/1', documents: 2, error: expect.stringContaining('missing_documents') },
    ])
    const shown = await rankmill(['failed', 'show', 'dead'])
    expect(JSON.parse(shown.out)).toMatchObject({ id: 'dead', data: { query: 'q' } })
    await client.putCorpus('c', [{ id: 'b', text: 'two' }])
    expect((await rankmill(['failed', 'retry', 'dead'])).err).toMatch(/1 job\(s\) back/)
    expect((await client.result('dead')).results).toHaveLength(2)
    expect(await rankmill(['failed', 'rm', 'dead'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('not_found'),
    })
    expect(await rankmill(['failed', 'ls'])).toMatchObject({ code: 0, out: '' })
  })

  it('knows both lanes, newest first', async () => {
    await stage().worker()
    const client = stage().client()
    const fail = (id: string, priority: number) =>
      client.rerank({ id, query: 'q', documents: { corpus: 'later', ids: ['a'] }, priority }).catch(({ code }) => code)
    for (const [i, priority] of [0, 500, 999, 20].entries()) {
      expect(await fail(`dead${i}`, priority)).toBe('unknown_corpus')
      // BullMQ moves a job after its request is answered, and notes the millisecond.
      const counts = async () =>
        Promise.all((await stage().keys('*:failed')).map((failed) => stage().redis.zcard(failed)))
      await until('it counts as failed', async () => (await counts()).reduce((a, b) => a + b, 0) === i + 1)
    }
    const ids = (out: string) => lines(out).map(({ id }) => id)
    expect(ids((await rankmill(['failed', 'ls'])).out)).toEqual(['dead3', 'dead2', 'dead1', 'dead0'])
    expect(ids((await rankmill(['failed', 'ls', '--limit', '2'])).out)).toEqual(['dead3', 'dead2'])
    await client.putCorpus('later', [{ id: 'a', text: 'one' }])
    expect((await rankmill(['failed', 'retry', 'dead0', 'dead2'])).err).toMatch(/2 job\(s\) back/)
    for (const id of ['dead0', 'dead2']) expect((await client.result(id)).results).toHaveLength(1)
    expect((await rankmill(['failed', 'rm', 'all'])).err).toMatch(/2 job\(s\) removed/)
    expect((await rankmill(['failed', 'ls'])).out).toBe('')
  })
})

describe('rankmill doctor', () => {
  it('finds what there is', async () => {
    const { code, out } = await rankmill(['doctor', '--model', TINY_MODEL])
    const findings = Object.fromEntries(lines(out).map((f) => [f.what, f.state]))
    expect(findings).toMatchObject({ Node: 'ok', Redis: 'ok', 'ONNX Runtime': 'ok', Model: 'ok' })
    expect(code).toBe(0)
  })

  it('says how to mend what there is not', async () => {
    const { code, out } = await rankmill(['doctor', '--model', './nowhere', '--redis', 'redis://127.0.0.1:1'])
    for (const what of ['Redis', 'Model'])
      expect(lines(out).find((f) => f.what === what)).toMatchObject({ state: 'fault', fix: expect.any(String) })
    expect(code).toBe(3)
  })
})

it('rankmill up serves metrics for the whole and drains at the first signal', async () => {
  const child = spawn(process.execPath, [MAIN, 'up', ...QUICK.slice(0, -2), '--workers', '2', '--port', '0'], {
    env: { ...process.env, RANKMILL_PREFIX: stage().prefix, REDIS_URL },
  })
  stage().onEnd(() => child.kill('SIGKILL'))
  let err = ''
  const url = await new Promise<string>((found) => {
    child.stderr.on('data', (data) => {
      err += data
      const at = /metrics at (\S+)/.exec(err)?.[1]
      if (at && /Ctrl-C drains/.test(err)) found(at)
    })
  })
  const client = stage().client()
  for (const i of [1, 2, 3, 4]) await client.rerank({ query: `q${i}`, documents: ['a', 'b', 'c'] })
  const metrics = await (await fetch(url)).text()
  expect(metrics).toMatch(/^rankmill_pairs_total\{source="model"\} 12$/m)
  expect(metrics).toMatch(/^rankmill_request_duration_seconds_count\{outcome="completed"\} 4$/m)
  expect(metrics).toMatch(/^rankmill_queue_jobs\{queue="rerank@[^"]+",.*lane="interactive",state="waiting"\} 0$/m)
  expect((await fetch(url.replace('metrics', 'readyz'))).status).toBe(200)
  expect(await (await fetch(url.replace('metrics', 'healthz'))).json()).toMatchObject({
    ok: true,
    checks: { workers: '2 of 2' },
  })
  child.kill('SIGINT')
  const code = await new Promise((gone) => child.on('exit', gone))
  expect(code).toBe(0)
  expect(
    await client.result(await client.submit({ query: 'q', documents: ['a'] }), { timeoutMs: 50 }).catch((e) => e.code),
  ).toBe('timeout')
})

it('rankmill up serves a pool of workers for each model, the first being the default', async () => {
  const other = `other=${TINY_MODEL}`
  const flags = QUICK.slice(0, -2).filter((flag, i, all) => flag !== '--model' && all[i - 1] !== '--model')
  const pools = ['--pool', `${other}:1`, '--pool', `${TINY_MODEL}:1`]
  const child = spawn(process.execPath, [MAIN, 'up', ...flags, ...pools, '--port', '0'], {
    env: { ...process.env, RANKMILL_PREFIX: stage().prefix, REDIS_URL },
  })
  stage().onEnd(() => child.kill('SIGKILL'))
  let err = ''
  child.stderr.on('data', (data) => {
    err += data
  })
  await until('it is up', () => /Ctrl-C drains/.test(err))
  const client = new RerankClient({ ...stage().options(), model: undefined })
  stage().onEnd(() => client.close())
  expect((await client.workers()).map(({ models }) => models).sort()).toEqual([[TINY_MODEL], ['other']])
  expect((await client.rerank({ query: 'q', documents: ['a'] })).model).toBe('other')
  expect((await client.rerank({ query: 'q', documents: ['a'], model: TINY_MODEL })).model).toBe(TINY_MODEL)
  const { out } = await rankmill(['status', '--json'])
  expect(JSON.parse(out).queues).toEqual(
    expect.arrayContaining([expect.objectContaining({ pool: 'other', workers: 1 })]),
  )
})

it('rankmill up replaces a worker that was killed', async () => {
  const child = spawn(process.execPath, [MAIN, 'up', ...QUICK.slice(0, -2), '--workers', '1', '--port', '0'], {
    env: { ...process.env, RANKMILL_PREFIX: stage().prefix, REDIS_URL },
  })
  stage().onEnd(() => child.kill('SIGTERM'))
  let err = ''
  child.stderr.on('data', (data) => {
    err += data
  })
  await until('it is up', () => /Ctrl-C drains/.test(err))
  const alive = async () =>
    (await stage().redis.hvals(`${stage().prefix}:workers-info:rerank`)).map((text) => JSON.parse(text))
  const [first] = await alive()
  process.kill(first.pid, 'SIGKILL')
  await until('another worker is there', async () => (await alive()).some(({ pid }) => pid !== first.pid))
  const client = stage().client()
  expect((await client.rerank({ query: 'q', documents: ['a'] })).results).toHaveLength(1)
  expect(err).toMatch(/ended \(SIGKILL\); starting another in 1 s/)
})
