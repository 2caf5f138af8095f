/** Readers take what such files hold in practice, and refuse the rest with its place. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Source, textLines } from '../../../producer/lines/text-lines.js'
import { readCorpus, readQrels, readQueries } from '../../../producer/retrieval/beir.js'
import { readTrecRun } from '../../../producer/retrieval/trec-run.js'
import { RankmillError } from '../../../shared/errors.js'
import { listOf, sourceOf } from './source.js'

/** Ends of lines, a byte order mark, blank lines, chunks: what must make no difference. */
const dress = fc.record({
  bom: fc.boolean(),
  end: fc.constantFrom('\n', '\r\n', '\n\n', '\r\n  \r\n', '\n\t\n'),
  last: fc.boolean(),
  chunkBytes: fc.integer({ min: 1, max: 40 }),
})
type Dress = typeof dress extends fc.Arbitrary<infer T> ? T : never

function dressed(lines: readonly string[], { bom, end, last, chunkBytes }: Dress): Source {
  return sourceOf(`${bom ? '\ufeff' : ''}${lines.join(end)}${last ? end : ''}`, chunkBytes)
}

/** Any Unicode, line separators and other white space of JSON strings included. */
const text = fc.string({ unit: 'grapheme', maxLength: 30 }).map((t) => `${t}\u2028é文😀`)
const id = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 8 })
/** Of TREC's files: anything but what separates columns. */
const word = fc.string({ unit: 'binary', minLength: 1, maxLength: 8 }).filter((t) => !/[\s\ufeff\p{Cc}]/u.test(t))

async function refusal(reading: Promise<unknown>): Promise<RankmillError> {
  const error = await reading.then(
    () => undefined,
    (e: unknown) => e,
  )
  expect(error).toBeInstanceOf(RankmillError)
  expect((error as RankmillError).code).toBe('invalid_request')
  return error as RankmillError
}

describe('textLines', () => {
  it('gives lines with their numbers, however they end and are cut', async () => {
    const content = Buffer.from('\ufeffa\r\n\r\n  \n\u2028b\rc\n文😀')
    for (let chunkBytes = 1; chunkBytes <= content.length; chunkBytes++) {
      expect(await listOf(textLines(sourceOf(content, chunkBytes)))).toEqual([
        { number: 1, text: 'a' },
        { number: 4, text: '\u2028b\rc' },
        { number: 5, text: '文😀' },
      ])
    }
  })

  it('refuses what is not UTF-8, lines over the limit, and files that are not there', async () => {
    const latin = sourceOf(Buffer.from([0x61, 0x0a, 0xe9, 0x0a]))
    expect((await refusal(listOf(textLines(latin)))).message).toBe('file:2: must be UTF-8 text')
    const long = sourceOf(`a\n${'x'.repeat(11)}`)
    expect((await refusal(listOf(textLines(long, 10)))).message).toBe('file:2: a line must have at most 10 bytes')
    expect((await refusal(listOf(textLines('/nowhere/at/all')))).message).toMatch('cannot read /nowhere/at/all: ENOENT')
  })
})

describe('readCorpus', () => {
  it('reads what was written, title and text joined by a space', async () => {
    const passages = fc.uniqueArray(
      fc.record({ id, title: fc.option(fc.oneof(fc.constant(''), text), { nil: undefined }), text }),
      { selector: (passage) => passage.id, maxLength: 12 },
    )
    const check = async (list: { id: string; title?: string | undefined; text: string }[], how: Dress, key: string) => {
      const lines = list.map(({ id, ...rest }) => JSON.stringify({ [key]: id, ...rest, metadata: {} }))
      expect(await listOf(readCorpus(dressed(lines, how)))).toEqual(
        list.map(({ id, title, text }) => ({ id, text: title ? `${title} ${text}` : text })),
      )
    }
    await fc.assert(fc.asyncProperty(passages, dress, fc.constantFrom('_id', 'id'), check))
  })

  it('leaves out, unchecked, what is not wanted', async () => {
    const source = sourceOf('{"_id":"a","text":"A"}\n{"_id":"b"}\n{"_id":"b"}\n{"id":7,"title":null,"text":"S"}')
    expect(await listOf(readCorpus(source, { only: new Set(['a', '7']) }))).toEqual([
      { id: 'a', text: 'A' },
      { id: '7', text: 'S' },
    ])
  })

  it.each([
    ['{"_id":"a","text":"A"} trailing', /^file:2: must be JSON: /],
    ['{"_id":"a","text":"A"', /^file:2: must be JSON: /],
    ['["a"]', /^file:2: line: must be a JSON object, got \["a"\]$/],
    ['{"text":"A"}', /^file:2: _id: must be a string that is not empty, got nothing$/],
    ['{"_id":"","text":"A"}', /^file:2: _id: must be a string that is not empty, got ""$/],
    ['{"id":1.5,"text":"A"}', /^file:2: id: must be a string that is not empty, got 1.5$/],
    ['{"_id":"a"}', /^file:2: text: must be a string, got nothing$/],
    ['{"_id":"a","text":null}', /^file:2: text: must be a string, got null$/],
    ['{"_id":"a","text":"A","title":5}', /^file:2: title: must be a string, got 5$/],
    ['{"_id":"first","text":"A"}', /^file:2: _id: is the id of an earlier line too, got "first"$/],
  ])('refuses %s with its place', async (line, message) => {
    const error = await refusal(listOf(readCorpus(sourceOf(`{"_id":"first","text":"F"}\n${line}\n`))))
    expect(error.message).toMatch(message)
    expect(error.details.param).toMatch(/^file:2/)
  })
})

describe('readQueries', () => {
  it('reads ids and texts, and refuses an id that comes twice', async () => {
    const lines = ['{"_id":"1","text":"one"}', '{"id":"2","text":"two","metadata":{}}']
    expect(await listOf(readQueries(sourceOf(lines.join('\r\n'))))).toEqual([
      { id: '1', text: 'one' },
      { id: '2', text: 'two' },
    ])
    const error = await refusal(listOf(readQueries(sourceOf([...lines, lines[0]].join('\n')))))
    expect(error.message).toBe('file:3: _id: is the id of an earlier line too, got "1"')
  })
})

describe('readQrels', () => {
  const judgements = fc.uniqueArray(fc.tuple(word, word, fc.integer({ min: -3, max: 9 })), {
    selector: ([query, document]) => `${query} ${document}`,
    minLength: 1,
    maxLength: 20,
  })

  it('reads BEIR and TREC judgements alike', async () => {
    const check = async (list: [string, string, number][], how: Dress, tab: string) => {
      const beir = ['query-id\tcorpus-id\tscore', ...list.map((row) => row.join('\t'))]
      const trec = list.map(([query, document, grade]) => [query, '0', document, grade].join(tab))
      const [a, b] = await Promise.all([readQrels(dressed(beir, how)), readQrels(dressed(trec, how))])
      expect(a).toEqual(b)
      const read = [...a].flatMap(([query, grades]) => [...grades].map(([document, grade]) => [query, document, grade]))
      expect(new Set(read.map(String))).toEqual(new Set(list.map(String)))
    }
    await fc.assert(fc.asyncProperty(judgements, dress, fc.constantFrom(' ', '\t', '  \t '), check))
  })

  it('keeps spaces in ids between tabs, and takes a repeated judgement once', async () => {
    const qrels = await readQrels(sourceOf('query-id\tcorpus-id\tscore\nq 1\td 1\t-1\nq 1\td 1\t-1\n'))
    expect(qrels).toEqual(new Map([['q 1', new Map([['d 1', -1]])]]))
  })

  const header = 'query-id\tcorpus-id\tscore\n'
  it.each([
    [`${header}q\td\t1.5`, 'file:2: score: must be an integer, got "1.5"'],
    [`${header}q\td\t`, 'file:2: score: must be an integer, got ""'],
    [`${header}\td\t1`, 'file:2: query-id: must not be empty, got ""'],
    [`${header}q\t\t1`, 'file:2: corpus-id: must not be empty, got ""'],
    [`${header}q d 1`, 'file:2: must have 3 columns between tabs (query-id, corpus-id, score), got 1'],
    [`${header}q\td\t1\nq\td\t2`, 'file:3: score: query q has document d twice, with grade 1 before, got "2"'],
    ['q 0 d one', 'file:1: score: must be an integer, got "one"'],
    ['q\td\t1', /^file:1: must have TREC's 4 columns .* or the file must begin with BEIR's header .* got 3 columns$/],
  ])('refuses %j with its place', async (content, message) => {
    const { message: got } = await refusal(readQrels(sourceOf(content)))
    if (typeof message === 'string') expect(got).toBe(message)
    else expect(got).toMatch(message)
  })
})

describe('readTrecRun', () => {
  const rows = fc.uniqueArray(
    fc.tuple(fc.constantFrom('q1', 'q2', 'q3'), word, fc.float({ noNaN: true, noDefaultInfinity: true })),
    {
      selector: ([query, document]) => `${query} ${document}`,
      maxLength: 30,
    },
  )

  it('groups and orders rows, interleaved or not', async () => {
    const check = async (list: [string, string, number][], how: Dress, space: string) => {
      const lines = list.map(([query, document, score]) => [query, 'Q0', document, 1, score, 'tag'].join(space))
      const run = await readTrecRun(dressed(lines, how))
      expect([...run.keys()]).toEqual([...new Set(list.map(([query]) => query))])
      for (const [query, { docIds, scores }] of run) {
        const mine = list.filter((row) => row[0] === query)
        const sorted = mine.sort((a, b) => b[2] - a[2] || Buffer.compare(Buffer.from(b[1]), Buffer.from(a[1])))
        expect(docIds).toEqual(sorted.map((row) => row[1]))
        expect(scores.map(Number)).toEqual(sorted.map((row) => Number(String(row[2]))))
      }
    }
    await fc.assert(fc.asyncProperty(rows, dress, fc.constantFrom(' ', '\t', ' \t  '), check))
  })

  it.each([
    ['q Q0 d 1 0.5', 'file:2: must have 6 columns (query, Q0, document, rank, score, tag), got 5'],
    ['q Q0 d 1 0.5 my tag', 'file:2: must have 6 columns (query, Q0, document, rank, score, tag), got 7'],
    ['q Q0 d 1 nan t', 'file:2: score: must be a finite number, got "nan"'],
    ['q Q0 d 1 Infinity t', 'file:2: score: must be a finite number, got "Infinity"'],
    ['q Q0 d 1 1e999 t', 'file:2: score: must be a finite number, got "1e999"'],
    ['q Q0 d 1 0x10 t', 'file:2: score: must be a finite number, got "0x10"'],
    ['p Q0 x 1 3 t\nq Q0 first 2 3 t', 'file:3: document: query q has the document in line 1 already, got "first"'],
  ])('refuses %j with its place', async (lines, message) => {
    expect((await refusal(readTrecRun(sourceOf(`q Q0 first 1 9 t\n${lines}\n`)))).message).toBe(message)
  })
})
