/** `rankmill batch trec`: a retrieval run in, the reranked run out. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { recordOf } from '../../producer/batch/output-check.js'
import { readQrels } from '../../producer/retrieval/beir.js'
import { TrecSource } from '../../producer/retrieval/trec-batch.js'
import { readTrecRun } from '../../producer/retrieval/trec-run.js'
import { runCommand, type Said } from './command.js'
import { useStage } from './stage.js'

const stage = useStage()
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-trec-'))
})
afterEach(() => rm(folder, { recursive: true }))

const QUERIES = 30
const CANDIDATES = 12
const DEPTH = 8

const docIdsOf = (query: number) => Array.from({ length: CANDIDATES }, (_, k) => `d${(query * 5 + k) % 60}`)

async function writeCollection(): Promise<void> {
  const lines = <T>(values: T[]) => `${values.map((value) => JSON.stringify(value)).join('\n')}\n`
  const passages = Array.from({ length: 60 }, (_, i) => ({
    _id: `d${i}`,
    title: `Title ${i}`,
    text: `passage ${i} of ${i % 7}`,
  }))
  const queries = Array.from({ length: QUERIES }, (_, i) => ({ _id: `q${i}`, text: `what is passage ${i}` }))
  await writeFile(join(folder, 'corpus.jsonl'), lines(passages))
  await writeFile(join(folder, 'queries.jsonl'), lines(queries))
  const run = queries.flatMap(({ _id }, i) =>
    docIdsOf(i).map((id, k) => `${_id} Q0 ${id} ${k + 1} ${CANDIDATES - k} bm25`),
  )
  await writeFile(join(folder, 'in.trec'), `${run.join('\n')}\n`)
  const qrels = queries.map(({ _id }, i) => `${_id}\td${(i * 5 + 3) % 60}\t1`)
  await writeFile(join(folder, 'qrels.tsv'), `query-id\tcorpus-id\tscore\n${qrels.join('\n')}\n`)
}

function batch(...args: string[]): Promise<Said> {
  const { redis, prefix } = stage().options()
  const env = { RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  return runCommand(['batch', ...args, '--no-embedded'], folder, env)
}

function trec(...flags: string[]): Promise<Said> {
  const files = ['--corpus', 'corpus.jsonl', '--queries', 'queries.jsonl', '--run', 'in.trec', '-o', 'out.trec']
  return batch('trec', ...files, ...flags)
}

it('reranks the first candidates, keeps the rest below them, and says what that changed', async () => {
  await stage().worker()
  await writeCollection()
  const { code, stdout } = await trec('--depth', String(DEPTH), '--qrels', 'qrels.tsv')
  expect(code).toBe(0)
  const run = await readTrecRun(join(folder, 'out.trec'))
  expect([...run.keys()]).toEqual(Array.from({ length: QUERIES }, (_, i) => `q${i}`))
  const client = stage().client()
  for (const query of [0, 17]) {
    const ids = docIdsOf(query)
    const documents = ids
      .slice(0, DEPTH)
      .map((id) => `Title ${id.slice(1)} passage ${id.slice(1)} of ${Number(id.slice(1)) % 7}`)
    const { results } = await client.rerank({ query: `what is passage ${query}`, documents })
    const expected = [...results.map(({ index }) => ids[index]), ...ids.slice(DEPTH)]
    expect(run.get(`q${query}`)?.docIds).toEqual(expected)
  }
  for (const measure of ['nDCG@10', 'MRR@10', 'MAP', 'R@100']) expect(stdout).toContain(measure)
  expect(stdout).toMatch(/30 queries: \d+ won, \d+ lost, \d+ tied/)
})

it('knows what the first stage gave each candidate', async () => {
  await stage().worker()
  await writeCollection()
  // The model sees the run's first two; the others follow in the run's order.
  const { code } = await trec('--depth', String(DEPTH), '--prefilter', '2', '--prefilter-model', 'first-stage')
  expect(code).toBe(0)
  const run = await readTrecRun(join(folder, 'out.trec'))
  for (let query = 0; query < QUERIES; query++) {
    const [found, before] = [run.get(`q${query}`)?.docIds ?? [], docIdsOf(query)]
    expect(found.slice(0, 2).sort()).toEqual(before.slice(0, 2).sort())
    expect(found.slice(2)).toEqual(before.slice(2))
  }
})

/** Where a run is that has done so many queries. */
async function markAfter(line: number) {
  const runFile = join(folder, 'in.trec')
  const files = { corpus: { file: join(folder, 'corpus.jsonl') }, queries: join(folder, 'queries.jsonl'), runFile }
  const source = await TrecSource.open({ ...files, run: await readTrecRun(runFile), depth: 100 })
  const digest = await source.digestAt({ line, offset: line })
  await source.close()
  return { line, offset: line, digest }
}

it('goes on after it was interrupted, to the same bytes', async () => {
  await stage().worker({ scoreCacheTtlMs: 0 })
  await writeCollection()
  const whole = await trec()
  expect(whole.code).toBe(0)
  const expected = await readFile(join(folder, 'out.trec'), 'utf8')
  // As a killed run leaves it: some queries done, and half of a line.
  const checkpoint = JSON.parse(await readFile(join(folder, 'out.trec.rankmill', 'checkpoint.1'), 'utf8'))
  const done =
    expected
      .split('\n')
      .slice(0, 7 * CANDIDATES)
      .join('\n').length + 1
  await writeFile(join(folder, 'out.trec'), expected.slice(0, done))
  const then = {
    ...checkpoint,
    mark: await markAfter(7),
    items: 7,
    customIds: 7,
    output: await recordOf(join(folder, 'out.trec'), 7 * CANDIDATES),
    totals: { ...checkpoint.totals, requests: 7 },
    finished: false,
  }
  await writeFile(join(folder, 'out.trec.rankmill', 'checkpoint.1'), JSON.stringify(then))
  await writeFile(join(folder, 'out.trec'), expected.slice(0, done + 30))
  expect((await trec()).code).toBe(0)
  expect(await readFile(join(folder, 'out.trec'), 'utf8')).toBe(expected)
})

it('takes the passages from a stored corpus', async () => {
  await stage().worker()
  await writeCollection()
  await stage()
    .client()
    .putCorpus(
      'stored',
      Array.from({ length: 60 }, (_, i) => ({ id: `d${i}`, text: `Title ${i} passage ${i} of ${i % 7}` })),
    )
  await trec()
  const inline = await readFile(join(folder, 'out.trec'), 'utf8')
  const stored = await trec('--corpus', 'corpus:stored', '--overwrite')
  expect(stored.code).toBe(0)
  expect(await readFile(join(folder, 'out.trec'), 'utf8')).toBe(inline)
})

it('refuses what it cannot do before it starts anything', async () => {
  await writeCollection()
  await writeFile(join(folder, 'queries.jsonl'), '{"_id":"q0","text":"only one"}\n')
  const lacking = await trec()
  expect(lacking.code).toBe(2)
  expect(lacking.stderr).toContain("has no text for 29 of the run's 30 queries")
  await writeFile(join(folder, 'in.trec'), 'q0 Q0 d1 1 NaN bm25\n')
  const nan = await trec()
  expect(nan.code).toBe(2)
  expect(nan.stderr).toMatch(/in\.trec:1: score: must be a finite number, got "?NaN/)
})

describe('a folder', () => {
  it('of Parquet, as Hugging Face keeps BEIR, gives the bytes that JSON lines give', async () => {
    await stage().worker()
    await writeCollection()
    expect((await trec('--qrels', 'qrels.tsv')).code).toBe(0)
    const expected = await readFile(join(folder, 'out.trec'), 'utf8')
    const records = async (name: string): Promise<Record<string, unknown>[]> =>
      (await readFile(join(folder, name), 'utf8'))
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
    const parquet = async (path: string, rows: Record<string, unknown>[]) => {
      const columnData = Object.keys(rows[0] ?? {}).map((name) => ({ name, data: rows.map((row) => row[name]) }))
      await mkdir(join(folder, 'hub', path, '..'), { recursive: true })
      await writeFile(join(folder, 'hub', path), Buffer.from(parquetWriteBuffer({ columnData, rowGroupSize: 7 })))
    }
    const corpus = await records('corpus.jsonl')
    await parquet('corpus/corpus-00000-of-00002.parquet', corpus.slice(0, 25))
    await parquet('corpus/corpus-00001-of-00002.parquet', corpus.slice(25))
    await parquet('queries/queries-00000-of-00001.parquet', await records('queries.jsonl'))
    const judged = Array.from({ length: QUERIES }, (_, i) => ({ id: `q${i}`, document: `d${(i * 5 + 3) % 60}` }))
    await parquet(
      'default/test-00000-of-00001.parquet',
      judged.map(({ id, document }) => ({ 'query-id': id, 'corpus-id': document, score: 1 })),
    )
    const { code, stdout } = await batch('trec', 'hub', '--run', 'in.trec', '-o', 'hub.trec')
    expect(code).toBe(0)
    expect(stdout).toContain('nDCG@10')
    expect(await readFile(join(folder, 'hub.trec'), 'utf8')).toBe(expected)
  })

  it('says what it lacks before any work', async () => {
    await writeCollection()
    const { code, stderr } = await batch('trec', '.', '-o', 'out.trec')
    expect(code).toBe(2)
    expect(stderr).toContain('--run: must be given (. has none)')
  })
})

describe('judgements', () => {
  it('that share no query or no document with the run are refused before any work', async () => {
    await writeCollection()
    const wrong = { queries: 'q1.1\td3\t1', documents: 'q1\tother\t1' }
    for (const [what, line] of Object.entries(wrong)) {
      await writeFile(join(folder, 'qrels.tsv'), `query-id\tcorpus-id\tscore\n${line}\n`)
      const { code, stderr } = await trec('--qrels', 'qrels.tsv')
      expect(code).toBe(2)
      expect(stderr).toContain(`qrels.tsv: judges none of the run's ${what}`)
      expect(existsSync(join(folder, 'out.trec'))).toBe(false)
    }
  })

  it('may be quoted as CSV does', async () => {
    await writeFile(join(folder, 'qrels.tsv'), 'query-id\tcorpus-id\tscore\nq1\t"d2"\t1\n"q""2"\td1\t2\n')
    const qrels = await readQrels(join(folder, 'qrels.tsv'))
    expect([...qrels]).toEqual([
      ['q1', new Map([['d2', 1]])],
      ['q"2', new Map([['d1', 2]])],
    ])
  })
})

it('takes what can be read only once: process substitution and FIFOs', async () => {
  await stage().worker()
  await writeCollection()
  expect((await trec()).code).toBe(0)
  const expected = await readFile(join(folder, 'out.trec'), 'utf8')
  const { redis, prefix } = stage().options()
  const command = `"$0" "$1" batch trec --corpus <(cat corpus.jsonl) --queries <(cat queries.jsonl) --run <(cat in.trec) -o pipe.trec --no-embedded`
  const env = { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  for (let time = 0; time < 2; time++) {
    await promisify(execFile)('bash', ['-c', command, process.execPath, resolve('dist/cli/main.js')], {
      cwd: folder,
      env,
    })
    expect(await readFile(join(folder, 'pipe.trec'), 'utf8')).toBe(expected)
  }
})
