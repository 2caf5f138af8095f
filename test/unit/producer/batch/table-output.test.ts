/** A table comes out with the values that it went in with, beside what was answered. */
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { asyncBufferFromFile, parquetReadObjects, type SchemaElement } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { RunFolder } from '../../../../producer/batch/run-folder.js'
import { type TableSource, writeTable } from '../../../../producer/batch/table-output.js'

const LEASE_MS = 60_000
let folder: string
let claim: RunFolder
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-table-'))
  claim = await RunFolder.claim(join(folder, 'answers.jsonl'), LEASE_MS)
})
afterEach(async () => {
  await claim.release()
  await rm(folder, { recursive: true })
})
const write = (source: TableSource, output: string) => writeTable(source, output, claim)

const ROWS = 5
/** Types for which JavaScript has nothing exact, or JSON has not. */
const COLUMNS: readonly [SchemaElement, readonly unknown[]][] = [
  [
    { name: 'at', type: 'INT64', logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'MICROS' } },
    [-1n, 0n, 1_234_567n, 1_600_000_000_123_456n, null],
  ],
  [
    { name: 'ns', type: 'INT64', logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'NANOS' } },
    [0n, 1n, 2n, 3n, 1_600_000_000_123_456_789n],
  ],
  [{ name: 'bytes', type: 'BYTE_ARRAY' }, Array.from({ length: ROWS }, (_, i) => Uint8Array.of(255, i, 128))],
  [{ name: 'large', type: 'INT64' }, Array.from({ length: ROWS }, (_, i) => 2n ** 62n + BigInt(i))],
]

async function tableOf(columns = COLUMNS): Promise<string> {
  const path = join(folder, 'in.parquet')
  const schema = columns.map(([element]) => ({ ...element, repetition_type: 'OPTIONAL' as const }))
  const columnData = columns.map(([{ name }, data]) => ({ name, data: [...data] }))
  const written = parquetWriteBuffer({
    columnData,
    schema: [{ name: 'root', num_children: columns.length }, ...schema],
  })
  await writeFile(path, Buffer.from(written))
  return path
}

async function answersOf(count: number): Promise<string> {
  const path = join(folder, 'answers.jsonl')
  const result = { index: 0, relevance_score: 0.25, scored_by: 'm', document: { text: 'a' } }
  const lines = Array.from({ length: count }, (_, i) =>
    i === 1
      ? { id: 'line-2', custom_id: null, response: null, error: { code: 'invalid_request', message: 'no' } }
      : { id: `line-${i + 1}`, custom_id: null, response: { body: { results: [result] } }, error: null },
  )
  await writeFile(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return path
}

const raw = (value: bigint) => value
const exactly = { timestampFromMicroseconds: raw, timestampFromNanoseconds: raw }
const rowsOf = async (path: string) =>
  parquetReadObjects({ file: await asyncBufferFromFile(path), utf8: false, parsers: exactly })

it('every value is copied exactly from Parquet to Parquet', async () => {
  const input = await tableOf()
  const output = join(folder, 'out.parquet')
  await write({ inputs: [input], answers: await answersOf(ROWS), maxRowBytes: 1e6 }, output)
  const rows = await rowsOf(output)
  expect(rows.map(({ results: _r, error: _e, ...row }) => row)).toEqual(await rowsOf(input))
  expect(rows[0]).toMatchObject({
    results: [{ index: 0, id: null, relevance_score: 0.25, scored_by: 'm', document: 'a' }],
    error: null,
  })
  expect([rows[1]?.['results'] ?? null, rows[1]?.['error']]).toEqual([null, 'invalid_request: no'])
})

it('and to CSV as text with all digits, bytes that are no text as base64', async () => {
  const output = join(folder, 'out.csv')
  await write({ inputs: [await tableOf()], answers: await answersOf(ROWS), maxRowBytes: 1e6 }, output)
  const [header, first, second, , fourth] = (await readFile(output, 'utf8')).split('\n')
  expect(header).toBe('at,ns,bytes,large,results,error')
  expect(first).toMatch(/^1969-12-31T23:59:59.999999Z,1970-01-01T00:00:00.000000000Z,\/wCA,4611686018427387904,"\[\{/)
  expect(second).toMatch(/,,invalid_request: no$/)
  expect(fourth).toMatch(/^2020-09-13T12:26:40.123456Z,/)
})

it('is refused where it would not be whole, and leaves nothing behind', async () => {
  const output = join(folder, 'out.parquet')
  const make = (inputs: string[], answers: string) => write({ inputs, answers, maxRowBytes: 1e6 }, output)
  const input = await tableOf()
  for (const count of [ROWS - 1, ROWS + 1])
    await expect(make([input], await answersOf(count))).rejects.toThrow(
      /has other rows than .* it was changed meanwhile/,
    )
  await tableOf([[{ name: 'results', type: 'INT64' }, [1n]]])
  await expect(make([input], await answersOf(1))).rejects.toThrow('has a column "results" already')
  await tableOf([[{ name: 'd', type: 'INT64', converted_type: 'DECIMAL', precision: 18, scale: 2 }, [1n]]])
  await expect(make([input], await answersOf(1))).rejects.toThrow('column d has decimals of 18 digits')
  await expect(make([input, join(folder, 'in.jsonl')], await answersOf(1))).rejects.toThrow('the same columns')
  expect([output, `${output}.partial.${claim.number}`].some(existsSync)).toBe(false)
})

it('is written by who holds the claim alone: one that slept meanwhile mixes nothing into it', async () => {
  const output = join(folder, 'out.csv')
  const source = { inputs: [await tableOf()], answers: await answersOf(ROWS), maxRowBytes: 1e6 }
  await writeFile(`${output}.partial.${claim.number}`, 'of a runner that was killed')
  const longAgo = new Date(Date.now() - 2 * LEASE_MS)
  await utimes(join(folder, 'answers.jsonl.rankmill', `lease.${claim.number}`), longAgo, longAgo)
  const next = await RunFolder.claim(join(folder, 'answers.jsonl'), LEASE_MS)
  try {
    const [slept, took] = await Promise.allSettled([write(source, output), writeTable(source, output, next)])
    expect(slept).toMatchObject({ status: 'rejected', reason: { code: 'output_in_use' } })
    expect(took.status).toBe('fulfilled')
    expect((await readFile(output, 'utf8')).split('\n')).toHaveLength(ROWS + 2)
    expect((await readdir(folder)).filter((name) => name.includes('.partial'))).toEqual([])
  } finally {
    await next.release()
  }
})
