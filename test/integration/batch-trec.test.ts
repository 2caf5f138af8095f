/** `rankmill batch trec`: a retrieval run in, the reranked run out. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { recordOf } from '../../producer/batch/output-check.js'
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

function trec(...flags: string[]): Promise<Said> {
  const { redis, prefix } = stage().options()
  const files = ['--corpus', 'corpus.jsonl', '--queries', 'queries.jsonl', '--run', 'in.trec', '-o', 'out.trec']
  const env = { RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  return runCommand(['batch', 'trec', ...files, '--no-embedded', ...flags], folder, env)
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
