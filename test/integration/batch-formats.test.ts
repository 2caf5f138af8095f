/** The same requests in every format give the same answers, to one output or one each. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { parse } from 'csv-parse/sync'
import { stringify } from 'csv-stringify/sync'
import { asyncBufferFromFile, parquetReadObjects } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openBatch } from '../../producer/batch/batch-file.js'
import { runCommand, type Said } from './command.js'
import { useStage } from './stage.js'

const stage = useStage()
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-formats-'))
})
afterEach(() => rm(folder, { recursive: true }))

const ROWS = Array.from({ length: 40 }, (_, i) => ({
  custom_id: `r${i}`,
  lang: i % 3 === 0 ? null : 'en, "de"',
  year: BigInt(2000 + i),
  query: `what is\n"number" ${i}, ${i % 7}`,
  documents: Array.from({ length: 6 }, (_, k) => ({
    _id: `d${k}`,
    title: k % 2 === 0 ? `Title ${k}` : null,
    text: `passage ${k} of ${(i * 5 + k) % 11}`,
  })),
}))

const at = (name: string) => join(folder, name)
const jsonl = (rows: typeof ROWS) =>
  rows
    .map(({ custom_id, query, documents }) => {
      const texts = documents.map(({ _id, title, text }) => ({ id: _id, text: title ? `${title} ${text}` : text }))
      return `${JSON.stringify({ custom_id, body: { query, documents: texts } })}\n`
    })
    .join('')

function csv(rows: typeof ROWS, delimiter: string): string {
  const table = rows.map((row) => ({ ...row, lang: row.lang ?? '', documents: JSON.stringify(row.documents) }))
  return stringify(table, { header: true, delimiter, cast: { bigint: String } })
}

function parquet(rows: typeof ROWS): Buffer {
  const column = <K extends keyof (typeof ROWS)[number]>(name: K) => ({ name, data: rows.map((row) => row[name]) })
  const text = (name: string) =>
    ({ name, type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' }) as const
  return Buffer.from(
    parquetWriteBuffer({
      rowGroupSize: 9,
      columnData: [column('custom_id'), column('lang'), column('year'), column('query'), column('documents')],
      schema: [
        { name: 'root', num_children: 5 },
        text('custom_id'),
        text('lang'),
        { name: 'year', type: 'INT64', repetition_type: 'REQUIRED' },
        text('query'),
        { name: 'documents', repetition_type: 'OPTIONAL', converted_type: 'LIST', num_children: 1 },
        { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
        { name: 'element', repetition_type: 'OPTIONAL', num_children: 3 },
        text('_id'),
        text('title'),
        text('text'),
      ],
    }),
  )
}

function batch(...args: string[]): Promise<Said> {
  const { redis, prefix } = stage().options()
  const env = { RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  return runCommand(['batch', 'run', ...args, '--no-embedded'], folder, env)
}

async function expected(): Promise<string> {
  await writeFile(at('in.jsonl'), jsonl(ROWS))
  expect(await batch('in.jsonl', '-o', 'out.jsonl')).toMatchObject({ code: 0 })
  return readFile(at('out.jsonl'), 'utf8')
}

const resultsOf = (lines: string) =>
  lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).response.body.results as { index: number; id: string; relevance_score: number }[])

const TABLES = {
  csv: () => csv(ROWS, ','),
  tsv: () => csv(ROWS, '\t'),
  'csv.gz': () => gzipSync(csv(ROWS, ',')),
  parquet: () => parquet(ROWS),
}

describe.each(Object.entries(TABLES))('a table as .%s', (ending, content) => {
  it('gives the bytes that JSON lines give, and a table with the same columns and the results', async () => {
    await stage().worker()
    const lines = await expected()
    await writeFile(at(`in.${ending}`), content())
    expect(await batch(`in.${ending}`, '-o', 'from.jsonl')).toMatchObject({ code: 0 })
    expect(await readFile(at('from.jsonl'), 'utf8')).toBe(lines)

    expect(await batch(`in.${ending}`, '-o', 'table.parquet')).toMatchObject({ code: 0 })
    const rows = await parquetReadObjects({ file: await asyncBufferFromFile(at('table.parquet')) })
    expect(Object.keys(rows[0] ?? {})).toEqual(['custom_id', 'lang', 'year', 'query', 'documents', 'results', 'error'])
    expect(rows.map(({ query }) => query)).toEqual(ROWS.map(({ query }) => query))
    const found = resultsOf(lines).map((results) => results.map((result) => ({ ...result, document: null })))
    expect(rows.map(({ results }) => results)).toEqual(found)
    if (ending === 'parquet') {
      const copied = rows.map(({ results: _r, error: _e, ...row }) => row)
      expect(copied).toEqual(ROWS)
    }

    expect(await batch(`in.${ending}`, '-o', 'table.csv')).toMatchObject({ code: 0 })
    const table: Record<string, string>[] = parse(await readFile(at('table.csv'), 'utf8'), { columns: true })
    expect(table.map(({ year, lang }) => [year, lang])).toEqual(
      ROWS.map(({ year, lang }) => [String(year), lang ?? '']),
    )
    expect(table.map(({ results }) => JSON.parse(results ?? ''))).toEqual(resultsOf(lines))
    // Nothing is left to do, and what is there stays.
    expect(await batch(`in.${ending}`, '-o', 'table.csv')).toMatchObject({ code: 0 })
  })

  it('goes on by row after it was stopped', async () => {
    await stage().worker()
    const lines = await expected()
    await writeFile(at(`in.${ending}`), content())
    const files = { input: at(`in.${ending}`), output: at('on.jsonl') }
    const options = { checkpointMs: 50, maxWindowRequests: 2 }
    for (let stops = 0; ; stops++) {
      const run = await openBatch({ ...files, options })
      const stopAt = run.report().totals.requests + 7
      const timer = setInterval(() => run.progress().requests >= stopAt && run.stop(), 1)
      const { status } = await run.run(stage().client()).finally(() => clearInterval(timer))
      if (status === 'finished') break
      expect(stops).toBeLessThan(60)
    }
    expect(await readFile(at('on.jsonl'), 'utf8')).toBe(lines)
  })
})

describe('columns', () => {
  it('go by other names where flags say so, and are asked for where they are not there', async () => {
    await stage().worker()
    await writeFile(at('in.csv'), 'id,frage,texte\n7,was ist das,"[""a"",""b""]"\n8,und das,kein json\n')
    const { code, stderr } = await batch('in.csv', '-o', 'out.csv')
    expect(code).not.toBe(0)
    expect(stderr).toContain('has no column "query" for the query, but id, frage, texte; --query-column names another')
    const flags = ['--query-column', 'frage', '--documents-column', 'texte']
    expect(await batch('in.csv', '-o', 'out.csv', ...flags)).toMatchObject({ code: 1 })
    const rows: Record<string, string>[] = parse(await readFile(at('out.csv'), 'utf8'), { columns: true })
    expect(rows.map(({ id, error }) => [id, error?.split(':')[0]])).toEqual([
      ['7', ''],
      ['8', 'invalid_request'],
    ])
    expect(JSON.parse(rows[0]?.['results'] ?? '')).toHaveLength(2)
  })
})

it('a pipe under a name is read like standard input, and known again', async () => {
  await stage().worker()
  const lines = await expected()
  const { redis, prefix } = stage().options()
  const env = { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  const main = [process.execPath, resolve('dist/cli/main.js')]
  const command = (input: string) => `"$0" "$1" batch run ${input} -o pipe.jsonl --no-embedded`
  const run = (input: string) => promisify(execFile)('bash', ['-c', command(input), ...main], { cwd: folder, env })
  for (let time = 0; time < 2; time++) {
    await run('<(cat in.jsonl)')
    expect(await readFile(at('pipe.jsonl'), 'utf8')).toBe(lines)
  }
  await writeFile(at('in.jsonl'), lines)
  await expect(run('<(cat in.jsonl)')).rejects.toThrow('holds the results of another input')
})

it('a table does not take the place of an input, or of what no run wrote', async () => {
  await writeFile(at('in.csv'), csv(ROWS, ','))
  await symlink('in.csv', at('link.csv'))
  await writeFile(at('foreign.csv'), 'a,b\n')
  for (const output of ['in.csv', 'link.csv', 'foreign.csv']) {
    const before = await readFile(at(output), 'utf8')
    const { code, stderr } = await batch('in.csv', '-o', output)
    expect([code === 0, stderr]).toEqual([
      false,
      expect.stringMatching(/output_exists: .*(an input as well|nothing beside it says)/),
    ])
    expect(await readFile(at(output), 'utf8')).toBe(before)
  }
})

describe('several inputs', () => {
  it('are one run to one output, by patterns too, and may mix formats', async () => {
    await stage().worker()
    const lines = await expected()
    await mkdir(at('parts'))
    await writeFile(at('parts/part-0.jsonl.gz'), gzipSync(jsonl(ROWS.slice(0, 15)).slice(0, -1)))
    await writeFile(at('parts/part-1.csv'), csv(ROWS.slice(15, 25), ','))
    await writeFile(at('parts/part-2.parquet'), parquet(ROWS.slice(25)))
    expect(await batch('parts/part-*', '-o', 'all.jsonl')).toMatchObject({ code: 0 })
    expect(await readFile(at('all.jsonl'), 'utf8')).toBe(lines)
    const { code, stderr } = await batch('none-*', '-o', 'none.jsonl')
    expect([code === 0, stderr.includes('none-*: matches no file')]).toEqual([false, true])
  })

  it('are one run each where the output is a folder', async () => {
    await stage().worker()
    const lines = (await expected()).trim().split('\n')
    await writeFile(at('a.jsonl'), jsonl(ROWS.slice(0, 10)))
    await writeFile(at('b.jsonl'), jsonl(ROWS.slice(10, 12)))
    for (let time = 0; time < 2; time++) {
      expect(await batch('a.jsonl', 'b.jsonl', '-o', 'each/')).toMatchObject({ code: 0 })
      expect((await readFile(at('each/a.jsonl'), 'utf8')).trim().split('\n')).toEqual(lines.slice(0, 10))
      const b = (await readFile(at('each/b.jsonl'), 'utf8')).trim().split('\n')
      expect(b.map((line) => JSON.parse(line).custom_id)).toEqual(['r10', 'r11'])
    }
  })
})
