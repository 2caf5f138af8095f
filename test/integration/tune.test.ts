/** `rankmill tune` on a small collection, with real workers of its own. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import type { TuningOutcome } from '../../producer/tune/tuning.js'
import { runCommand, type Said } from './command.js'
import { REDIS_URL, TINY_MODEL, useStage } from './stage.js'

const stage = useStage()
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-tune-'))
})
afterEach(() => rm(folder, { recursive: true }))

async function writeCollection(): Promise<void> {
  const lines = <T>(values: T[]) => `${values.map((value) => JSON.stringify(value)).join('\n')}\n`
  const words = 'queue worker batch score model token redis cache lane stage exit pair'.split(' ')
  const passages = Array.from({ length: 80 }, (_, i) => ({
    _id: `d${i}`,
    text: Array.from({ length: 5 + (i % 70) }, (_, k) => words[(i * 3 + k * k) % words.length]).join(' '),
  }))
  const queries = Array.from({ length: 8 }, (_, i) => ({ _id: `q${i}`, text: `${words[i]} ${words[i + 1]}` }))
  await writeFile(join(folder, 'corpus.jsonl'), lines(passages))
  await writeFile(join(folder, 'queries.jsonl'), lines(queries))
  const qrels = queries.map(({ _id }, i) => `${_id}\td${i * 7}\t1`)
  await writeFile(join(folder, 'qrels.tsv'), `query-id\tcorpus-id\tscore\n${qrels.join('\n')}\n`)
}

function tune(...flags: string[]): Promise<Said> {
  return tuneOn(['--corpus', 'corpus.jsonl', '--queries', 'queries.jsonl'], flags)
}

function tuneOn(files: string[], flags: string[]): Promise<Said> {
  const quick = [
    '--models',
    TINY_MODEL,
    '--filters',
    'none',
    '--dtypes',
    'fp32',
    '--depth',
    '20',
    '--no-calibrate',
    '--sessions',
    '1',
    '--threads',
    '1',
    '--workers',
    '1',
    '--min-queries',
    '8',
  ]
  return runCommand(['tune', ...files, ...quick, ...flags], folder, { REDIS_URL })
}

it('measures against the full order, and recommends what keeps the quality and is fastest', async () => {
  await writeCollection()
  const { code, stdout, stderr } = await tune('--json', '--within', '20%', '--html', 'page.html', '-o', 'best.json')
  expect(stderr).toContain('tokens of a document')
  expect(code).toBe(0)
  const outcome = JSON.parse(stdout) as TuningOutcome
  const { measured, baseline, recommended } = outcome
  expect(outcome.measure).toBe('overlap@10 with the full order')
  expect(baseline).toMatchObject({ quality: 1, qualityShare: 1, speedup: 1, skipped: 0, queries: 8, confidence: 1 })
  expect(measured.map((m) => m.candidatesPerSecond)).toEqual(
    measured.map((m) => m.candidatesPerSecond).sort((a, b) => b - a),
  )
  for (const { quality, interval, queries } of measured) {
    expect(quality).toBeLessThanOrEqual(1)
    expect(interval[0]).toBeLessThanOrEqual(interval[1])
    expect(queries).toBe(8)
  }
  expect(recommended.qualityShare).toBeGreaterThanOrEqual(0.8)
  const fasterOnes = measured.filter((m) => m.candidatesPerSecond > recommended.candidatesPerSecond)
  for (const faster of fasterOnes) expect(faster.qualityShare < 0.8 || faster.confidence < 0.95).toBe(true)
  const names = [...measured, ...outcome.dropped].map(({ configuration }) => configuration.name)
  expect(new Set(names).size).toBe(names.length)
  expect(names.some((name) => name.includes('best 10 by bm25, fused'))).toBe(true)
  expect(await readFile(join(folder, 'page.html'), 'utf8')).toContain('<svg')

  const best = JSON.parse(await readFile(join(folder, 'best.json'), 'utf8'))
  await stage().worker()
  const { model: _, ...request } = best.request
  const result = await stage()
    .client()
    .rerank({ query: 'queue', documents: ['a queue', 'b', 'c'], ...request })
  expect(result.results).toHaveLength(3)
})

it('measures with judgements where there are some, and takes a folder that has them', async () => {
  await writeCollection()
  const { code, stdout } = await tuneOn(['.'], ['--json'])
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ measure: 'nDCG@10', baseline: { qualityShare: 1 } })
})

it('ends in time, and judges by what it has seen', async () => {
  await writeCollection()
  const { code, stdout } = await tune('--json', '--max-seconds', '1', '--configurations', '40')
  expect(code).toBe(0)
  const { measured, dropped } = JSON.parse(stdout) as TuningOutcome
  expect(measured[0]?.queries).toBeLessThanOrEqual(8)
  expect(measured.length + dropped.length).toBeLessThanOrEqual(40)
})

it('looks at what it is to write before it measures, and leaves what it reads alone', async () => {
  await writeCollection()
  const corpus = await readFile(join(folder, 'corpus.jsonl'), 'utf8')
  for (const [flags, message] of [
    [['-o', 'corpus.jsonl'], /output_exists: corpus\.jsonl: is an input as well/],
    [['--html', './queries.jsonl'], /output_exists: .*queries\.jsonl: is the same file as queries\.jsonl, an input/],
    [['--html', 'missing/page.html'], /output_unwritable: missing\/page\.html: there is no such folder/],
    [['-o', '.'], /output_unwritable: \.: is a folder/],
    [['-o', 'both', '--html', 'both'], /both: two things cannot be written to one file/],
  ] as const) {
    const { code, stdout, stderr } = await tune(...flags)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/configurations|started/)
    expect([code, stdout]).toEqual([2, ''])
  }
  expect(await readFile(join(folder, 'corpus.jsonl'), 'utf8')).toBe(corpus)
})

it('says what is missing', async () => {
  await writeCollection()
  await writeFile(join(folder, 'queries.jsonl'), '{"_id":"q","text":"zzz"}\n')
  const { code, stderr } = await tune()
  expect(code).toBe(2)
  expect(stderr).toContain('queries: none has a text, candidates')
})
