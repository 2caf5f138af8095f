/** Records mean the same in every format that is read. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openInputs } from '../../../../producer/batch/batch-inputs.js'
import { INPUT_START } from '../../../../producer/batch/batch-source.js'
import { passagesOf } from '../../../../producer/corpora/passage-lines.js'
import { documentsOf, requestDocument } from '../../../../producer/lines/source-documents.js'
import { cutToBytes } from '../../../../producer/lines/text-lines.js'
import { readCorpus } from '../../../../producer/retrieval/beir.js'
import { datasetFiles } from '../../../../producer/retrieval/dataset-folder.js'
import { listOf, sourceOf } from '../../retrieval/source.js'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-records-'))
})
afterEach(() => rm(folder, { recursive: true }))

const PASSAGES = [
  { id: 'd1', title: '', text: 'the redis queue' },
  { id: 'd2', title: 'Retry, "again"', text: 'how to retry\na failed job' },
  { id: '1234567890123456789', title: 'Größe', text: 'score' },
]
const EXPECTED = PASSAGES.map(({ id, title, text }) => ({ id, text: title === '' ? text : `${title} ${text}` }))

const quoted = (text: string, delimiter: string) =>
  text.includes(delimiter) || /["\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
const table = (delimiter: string) =>
  [['_id', 'title', 'text'], ...PASSAGES.map(({ id, title, text }) => [id, title, text])]
    .map((row) => `${row.map((value) => quoted(value, delimiter)).join(delimiter)}\r\n`)
    .join('')

const FILES: Record<string, () => string | Buffer> = {
  'corpus.jsonl': () => PASSAGES.map(({ id, ...rest }) => `${JSON.stringify({ _id: id, ...rest })}\n`).join(''),
  'numbers.jsonl': () =>
    PASSAGES.map(({ id, ...rest }) =>
      JSON.stringify({ _id: id, ...rest }).replace('"1234567890123456789"', '1234567890123456789'),
    ).join('\n'),
  'corpus.csv': () => `\uFEFF${table(',')}`,
  'corpus.tsv': () => table('\t'),
  'corpus.csv.gz': () => gzipSync(table(',')),
  'corpus.parquet': () =>
    Buffer.from(
      parquetWriteBuffer({
        rowGroupSize: 2,
        columnData: (['id', 'title', 'text'] as const).map((name) => ({
          name: name === 'id' ? '_id' : name,
          type: 'STRING',
          data: PASSAGES.map((passage) => passage[name]),
        })),
      }),
    ),
}

describe.each(Object.entries(FILES))('%s', (name, content) => {
  it('gives the same passages to each command', async () => {
    const path = join(folder, name)
    await writeFile(path, content())
    expect(await listOf(readCorpus(path))).toEqual(EXPECTED)
    const stored = await listOf(passagesOf(path, { maxDocumentBytes: 1000 }))
    expect(stored.map(({ id, text }) => ({ id, text }))).toEqual(EXPECTED)
    const documents = await listOf(documentsOf(path, true, 1000))
    expect(documents.map(requestDocument)).toEqual(EXPECTED)
    expect(documents[0]?.source).toBe(`${path}:${/csv|tsv/.test(name) ? 2 : 1}`)
  })
})

describe('an id', () => {
  it.each([
    ['{"id":7,"text":"a"}', '7'],
    ['{"_id": -9007199254740993, "text": "a"}', '-9007199254740993'],
    ['{"a":{"id":1},"id":123456789012345678901234567890,"text":"a"}', '123456789012345678901234567890'],
    ['{"_id":7,"id":"7","text":"a"}', '7'],
    ['{"text":"a"}', undefined],
    ['\uFEFF{"id":"x","text":"a"}', 'x'],
  ])('of %s', async (line, id) => {
    const [, document] = await listOf(documentsOf(sourceOf(`{"text":"before"}\n${line}\n`), true, 1000))
    expect(document?.id).toBe(id)
  })

  it.each(['{"id":1.5,"text":"a"}', '{"id":1e400,"text":"a"}', '{"id":"","text":"a"}', '{"id":{},"text":"a"}'])(
    'cannot be that of %s',
    async (line) => {
      await expect(listOf(documentsOf(sourceOf(line), true, 1000))).rejects.toThrow(/^file:1: id: must be/)
    },
  )

  it('that is too long for a request stays with the document', async () => {
    const id = 'x'.repeat(280)
    const [document] = await listOf(documentsOf(sourceOf(JSON.stringify({ id, text: 'a' })), true, 1000))
    expect(document).toMatchObject({ id })
    expect(document && requestDocument(document)).toEqual({ text: 'a' })
  })
})

it('a text that is too long is cut between characters, and says so', async () => {
  const [cut, whole] = await listOf(documentsOf(sourceOf('{"text":"ab文cd"}\n{"text":"abcd"}'), true, 4))
  expect(cut).toMatchObject({ text: 'ab', isCut: true })
  expect(whole).toMatchObject({ text: 'abcd', isCut: false })
  expect([3, 4, 5, 6].map((bytes) => cutToBytes('a😀b', bytes))).toEqual(['a', 'a', 'a😀', 'a😀b'])
})

it('a value in TSV may hold quotes, as JSON does', async () => {
  const path = join(folder, 'in.tsv')
  await writeFile(path, 'query\tdocuments\nwhat "is" it\t["a","b"]\n"tab\tand ""quote"""\t"[""c""]"\n')
  const source = await openInputs(path, 1000)
  const read = await listOf(source.read(INPUT_START))
  expect(read.map(({ request }) => request)).toEqual([
    { query: 'what "is" it', documents: ['a', 'b'] },
    { query: 'tab\tand "quote"', documents: ['c'] },
  ])
})

it('a table of nothing says so', async () => {
  for (const name of ['in.csv', 'in.tsv']) {
    await writeFile(join(folder, name), '')
    await expect(openInputs(join(folder, name), 1000)).rejects.toThrow(`${name}: is empty: its first line names`)
  }
})

describe('a table that is none', () => {
  it.each([
    ['a.csv', 'id,text\nd1,a,b\n', 'a.csv:2: must have 2 columns (id, text), got 3'],
    ['a.csv', 'id,id\nd1,a\n', 'a.csv:1: two columns are called "id"'],
    ['a.csv', 'id,text\nd1,"a\n', 'a.csv:2'],
    ['a.csv', Buffer.from([0x69, 0x64, 0x0a, 0xff, 0x0a]), 'a.csv: must be UTF-8 text'],
    [
      'a.csv',
      'id,text\nd1,say "a"\n',
      'a.csv:2: a value with quotes in it must be in quotes, with those in it doubled',
    ],
    ['a.tsv', 'id\ttext\nd1\t\n', 'a.tsv:2: text: must be a string, got nothing'],
    ['a.parquet', 'id,text\n', 'a.parquet'],
  ])('%s of %j', async (name, content, message) => {
    await writeFile(join(folder, name), content)
    await expect(listOf(readCorpus(join(folder, name)))).rejects.toThrow(message)
  })
})

describe('a data set folder', () => {
  it('may be as BEIR has it, as Hugging Face has it, or both', async () => {
    const { mkdir } = await import('node:fs/promises')
    for (const path of ['corpus', 'queries', 'default']) await mkdir(join(folder, path))
    const shards = ['corpus/corpus-00000-of-00002.parquet', 'corpus/corpus-00001-of-00002.parquet']
    const more = ['queries/queries-00000-of-00001.parquet', 'default/test-00000-of-00001.parquet', 'README.md']
    for (const name of [...shards, ...more]) await writeFile(join(folder, name), '')
    const at = (name: string) => join(folder, name)
    expect(await datasetFiles(folder)).toEqual({
      corpus: shards.map(at),
      queries: [at('queries/queries-00000-of-00001.parquet')],
      qrels: [at('default/test-00000-of-00001.parquet')],
      run: undefined,
    })
    await mkdir(at('qrels'))
    for (const name of ['corpus.jsonl', 'queries.jsonl.gz', 'qrels/test.tsv', 'qrels/dev.tsv', 'bm25.trec'])
      await writeFile(at(name), '')
    expect(await datasetFiles(folder)).toEqual({
      corpus: [at('corpus.jsonl')],
      queries: [at('queries.jsonl.gz')],
      qrels: [at('qrels/test.tsv')],
      run: at('bm25.trec'),
    })
    await expect(datasetFiles(at('qrels'))).rejects.toThrow('has no corpus: looked for corpus.*')
    await expect(datasetFiles(at('corpus.jsonl'))).rejects.toThrow('is no folder')
  })
})
