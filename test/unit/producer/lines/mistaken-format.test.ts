/** A file of another format than its name says is told from one with broken lines. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openInputs } from '../../../../producer/batch/batch-inputs.js'
import { compressedFrame } from '../../../../producer/lines/compression.js'
import { HEAD_BYTES, mistakenFormat } from '../../../../producer/lines/mistaken-format.js'
import type { RecordFormat } from '../../../../producer/lines/record-format.js'
import { recordsOf } from '../../../../producer/lines/records.js'
import { readTrecRun } from '../../../../producer/retrieval/trec-run.js'
import { listOf } from '../../retrieval/source.js'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-formats-'))
})
afterEach(() => rm(folder, { recursive: true }))

const REQUEST = '{"query":"q","documents":["a","b"]}\n'
const CSV = 'query,documents\nwhat is it,"[""a"",""b""]"\n'
const TSV = 'query\tdocuments\nwhat is it\t["a"]\n'
const PARQUET = Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'query', data: ['q'], type: 'STRING' }] }))
const long = (line: string) => line.repeat(Math.ceil((2 * HEAD_BYTES) / line.length))

function misfit(name: string, format: RecordFormat | 'text', content: string | Buffer): string | undefined {
  const bytes = Buffer.from(content)
  return mistakenFormat(name, format, { bytes: bytes.subarray(0, HEAD_BYTES), isWhole: bytes.length <= HEAD_BYTES })
}

it.each<[string, string | Buffer, string]>([
  ['in.jsonl', CSV, 'is CSV, not JSON lines: call it in.csv'],
  ['in.jsonl', `\uFEFF${CSV.replaceAll('\n', '\r\n')}`, 'is CSV, not JSON lines: call it in.csv'],
  ['in.jsonl', `query, documents\n${long('q,"[""a\n b""]"\n')}`, 'is CSV, not JSON lines: call it in.csv'],
  ['in.jsonl', `query,documents\nq,"[""${'a '.repeat(HEAD_BYTES)}""]"\n`, 'is CSV, not JSON lines: call it in.csv'],
  ['in.jsonl.gz', CSV, 'is CSV, not JSON lines: call it in.csv.gz'],
  ['s3://bucket/in', CSV, 'is CSV, not JSON lines: call it s3://bucket/in.csv'],
  ['standard input', CSV, 'is CSV, not JSON lines: a file whose name ends in .csv is read as such'],
  ['in.jsonl', TSV, 'is TSV, not JSON lines: call it in.tsv'],
  [
    'in.jsonl',
    CSV.replaceAll(',', ';'),
    'is a table divided by semicolons, not JSON lines: save it as CSV, with commas',
  ],
  ['in.jsonl', PARQUET, 'is Parquet, not JSON lines: call it in.parquet'],
  ['in.jsonl', gzipSync(REQUEST), 'is gzip, not JSON lines: call it in.jsonl.gz'],
  ['standard input', gzipSync(REQUEST), 'is gzip, not JSON lines: decompress it on the way (`gunzip -c`)'],
  [
    'in.jsonl',
    '<!DOCTYPE html>\n<html><body>Sign in, please</body></html>',
    'is an HTML page, not JSON lines: download',
  ],
  ['in.jsonl', '\n<html>', 'is an HTML page, not JSON lines: download'],
  ['in.jsonl', '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', 'is XML, not JSON lines'],
  [
    'in.jsonl',
    `[${REQUEST.trim()},${REQUEST.trim()}]`,
    "is a JSON array, not JSON lines: write one object a line (`jq -c '.[]'`)",
  ],
  ['in.jsonl', `[\n${REQUEST.trim()},\n${REQUEST}]\n`, 'is a JSON array'],
  ['in.jsonl', `[\n${long(`${REQUEST.trim()},\n`)}`, 'is a JSON array'],
  ['in.jsonl', `[${long(`${REQUEST.trim()},`)}`, 'is a JSON array'],
  ['in.jsonl', JSON.stringify([{ query: 'q', documents: [{ text: 'a' }] }], null, 2), 'is a JSON array'],
  ['in.jsonl', JSON.stringify({ query: 'q', documents: [{ text: 'a' }] }, null, 2), 'is JSON over several lines'],
  ['in.jsonl', long(`{\n  "query": "q",\n  "documents": [\n    {"text": "a"}\n  ]\n}\n`), 'is JSON over several lines'],
  ['in.jsonl', "{'query': 'q', 'documents': ['a']}\n{'query': 'r'}\n", "is objects in Python's notation"],
  ['in.jsonl', 'first line\nsecond line\n', 'is text, not JSON lines: each line must be a JSON object'],
  ['in.jsonl', Buffer.from(`\uFEFF${REQUEST}`, 'utf16le'), 'is text in UTF-16, not JSON lines: `iconv'],
  ['in.jsonl', Buffer.from(REQUEST, 'utf16le'), 'is binary data, not JSON lines'],
  ['in.jsonl', Buffer.concat([Buffer.from('PK\u0003\u0004'), Buffer.alloc(99)]), 'is a ZIP archive'],
  ['in.csv', REQUEST, 'is JSON lines, not CSV: call it in.jsonl'],
  ['in.csv', TSV, 'is TSV, not CSV: call it in.tsv'],
  ['in.csv', 'query;documents\nq;["a"]\n', 'is a table divided by semicolons'],
  ['in.tsv', CSV, 'is CSV, not TSV: call it in.csv'],
  ['in.csv', PARQUET, 'is Parquet, not CSV: call it in.parquet'],
  ['in.parquet', CSV, 'is CSV, not Parquet: call it in.csv'],
  ['in.parquet', REQUEST, 'is JSON lines, not Parquet: call it in.jsonl'],
])('%s of kind %#', (name, content, said) => {
  const format = /\.(csv|tsv|parquet)$/.exec(name)?.[1] ?? 'jsonl'
  expect(misfit(name, format as RecordFormat, content)).toContain(said)
})

it.each<[RecordFormat | 'text', string | Buffer]>([
  ['jsonl', ''],
  ['jsonl', '\n\n'],
  ['jsonl', REQUEST],
  ['jsonl', `\uFEFF${REQUEST.trim()}`],
  ['jsonl', `${REQUEST}${REQUEST.slice(0, 9)}`],
  ['jsonl', `not json\n${REQUEST}`],
  ['jsonl', `a,b\nc,d\n${REQUEST}`],
  ['jsonl', `[1]\n${REQUEST}`],
  ['jsonl', `<html>\n${REQUEST}`],
  ['jsonl', `{"query": broken,\n${REQUEST}`],
  ['jsonl', Buffer.concat([Buffer.from([0, 255, 10]), Buffer.from(REQUEST)])],
  ['jsonl', `{"query":"q","documents":["${'a'.repeat(2 * HEAD_BYTES)}"]}\n`],
  // One line that is broken is its own fault; no table has only a header.
  ['jsonl', 'not json'],
  ['jsonl', 'a,b'],
  ['jsonl', '["a", 1]\n'],
  ['jsonl', '{"query":'],
  ['csv', CSV],
  ['csv', 'text\none, of a kind\n'],
  ['csv', 'query\tof all,documents\n'],
  ['csv', 'text\n"{""a"":1}"\n'],
  ['tsv', TSV],
  ['tsv', 'query, all of it\tdocuments\nq, r\t["a"]\n'],
  ['parquet', PARQUET],
  ['text', '<html>\n'],
  ['text', REQUEST],
])('%s may be %#', (format, content) => {
  expect(misfit('in', format, content)).toBeUndefined()
})

describe('is refused where it is opened,', () => {
  const at = async (name: string, content: string | Uint8Array) => {
    await writeFile(join(folder, name), content)
    return join(folder, name)
  }

  it('with its name', async () => {
    const path = await at('in.jsonl', CSV)
    const message = `${path}: is CSV, not JSON lines: call it ${join(folder, 'in.csv')}`
    await expect(openInputs(path, 1000)).rejects.toMatchObject({ code: 'input_unreadable', message })
    await expect(openInputs([await at('good.jsonl', REQUEST), path], 1000)).rejects.toMatchObject({ message })
    await expect(listOf(recordsOf(path))).rejects.toMatchObject({ code: 'invalid_request', message })
  })

  it('by what is in it where it is compressed, and by how it is compressed', async () => {
    const frame = await compressedFrame(Buffer.from(CSV), 'zstd')
    await expect(openInputs(await at('a.jsonl.zst', frame), 1000)).rejects.toThrow(/is CSV.*call it .*a\.csv\.zst/)
    await expect(openInputs(await at('b.jsonl.gz', frame), 1000)).rejects.toThrow(
      /is Zstandard, though its name ends in \.gz: call it .*b\.jsonl\.zst$/,
    )
    const plain = await at('c.jsonl.gz', REQUEST)
    const said = /is not compressed, though its name ends in \.gz: call it .*c\.jsonl$/
    await expect(openInputs(plain, 1000)).rejects.toThrow(said)
    await expect(listOf(recordsOf(plain))).rejects.toThrow(said)
    await expect(openInputs(await at('d.csv.gz', CSV), 1000)).rejects.toThrow(/call it .*d\.csv$/)
  })

  it('as a table that is none', async () => {
    await expect(openInputs(await at('a.csv', REQUEST), 1000)).rejects.toThrow(/a\.csv: is JSON lines, not CSV/)
    await expect(openInputs(await at('a.parquet', CSV), 1000)).rejects.toThrow(/a\.parquet: is CSV, not Parquet/)
    await expect(listOf(recordsOf(await at('b.parquet', CSV)))).rejects.toThrow(/is CSV, not Parquet/)
    await expect(listOf(recordsOf(await at('b.csv', PARQUET)))).rejects.toThrow(/b\.csv: is Parquet, not CSV/)
  })

  it('as lines of anything only where it is none', async () => {
    await expect(readTrecRun(await at('run.trec', gzipSync('q 0 d 1 2 t\n')))).rejects.toThrow(
      /call it .*run\.trec\.gz/,
    )
  })

  it('as requests that are none', async () => {
    const texts = '{"_id":"1","text":"a"}\n{"_id":"2","text":"b"}\n'
    await expect(openInputs(await at('in.jsonl', texts), 1000)).rejects.toThrow(
      /holds texts, not requests: `rankmill rerank --jsonl`/,
    )
    await openInputs(await at('mixed.jsonl', `${texts}${REQUEST}`), 1000)
  })
})
