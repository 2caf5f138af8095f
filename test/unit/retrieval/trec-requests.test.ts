/** A run becomes requests with its first candidates, whether the passages fit into memory or not. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PassageStore } from '../../../producer/retrieval/passage-store.js'
import { type SkippedParts, type TrecRequestsOptions, trecRequests } from '../../../producer/retrieval/trec-requests.js'
import { rankingOf } from '../../../producer/retrieval/trec-run.js'
import { RankmillError } from '../../../shared/errors.js'
import { listOf, sourceOf } from './source.js'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rankmill-test-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const jsonl = (items: object[]) => items.map((item) => `${JSON.stringify(item)}\n`).join('')
const corpusOf = (...ids: string[]) =>
  sourceOf(jsonl(ids.map((_id) => ({ _id, title: `T${_id}`, text: `text ${_id}` }))), 64, 'corpus.jsonl')
const queriesOf = (...ids: string[]) =>
  sourceOf(jsonl(ids.map((_id) => ({ _id, text: `query ${_id}` }))), 64, 'queries.jsonl')
const run = new Map([
  ['q2', rankingOf(['d1', 'd3', 'd2'], [1, 3, 2])],
  ['q1', rankingOf(['d2'], [1])],
])
const options = (more: Partial<TrecRequestsOptions> = {}): TrecRequestsOptions => ({
  corpus: { file: corpusOf('d1', 'd2', 'd3', 'd4') },
  queries: queriesOf('q1', 'q2', 'q3'),
  run,
  depth: 2,
  scratchFolder: folder,
  ...more,
})
const document = (id: string, score: number) => ({ id, text: `T${id} text ${id}`, score })

describe('trecRequests', () => {
  it.each([
    ['in memory', 1e6],
    ['in a file', 0],
  ])('gives each query of the run its best candidates, passages %s', async (_, maxMemoryBytes) => {
    const requests = await listOf(trecRequests(options({ maxMemoryBytes, request: { topN: 5, model: 'm' } })))
    expect(requests).toEqual([
      {
        queryId: 'q2',
        docIds: ['d3', 'd2'],
        request: { topN: 5, model: 'm', query: 'query q2', documents: [document('d3', 3), document('d2', 2)] },
      },
      {
        queryId: 'q1',
        docIds: ['d2'],
        request: { topN: 5, model: 'm', query: 'query q1', documents: [document('d2', 1)] },
      },
    ])
    expect(readdirSync(folder)).toEqual([])
  })

  it('refers to a stored corpus by its name', async () => {
    const [first] = await listOf(trecRequests(options({ corpus: { name: 'wiki' }, depth: 10 })))
    expect(first).toEqual({
      queryId: 'q2',
      docIds: ['d3', 'd2', 'd1'],
      request: { query: 'query q2', documents: { corpus: 'wiki', ids: ['d3', 'd2', 'd1'], scores: [3, 2, 1] } },
    })
  })

  it('leaves no file behind when the reader stops early, or is killed', async () => {
    for await (const { queryId } of trecRequests(options({ maxMemoryBytes: 0 }))) {
      expect(queryId).toBe('q2')
      // Only Windows keeps the name of an open file.
      if (process.platform !== 'win32') expect(readdirSync(folder)).toEqual([])
      break
    }
    expect(readdirSync(folder)).toEqual([])
  })

  it.each<[string, () => Partial<TrecRequestsOptions>, string, RegExp]>([
    [
      'unknown queries',
      () => ({ queries: queriesOf('q1') }),
      'invalid_request',
      /^queries.jsonl: has no text for 1 of the run's 2 queries: "q2"$/,
    ],
    [
      'missing passages',
      () => ({ corpus: { file: corpusOf('d1') } }),
      'missing_documents',
      /^corpus.jsonl: has no passage for 2 candidates of the run: "d3", "d2"$/,
    ],
    ['a bad depth', () => ({ depth: 0 }), 'invalid_request', /^depth: must be an integer of at least 1, got 0$/],
    [
      'a passage that comes twice',
      () => ({ corpus: { file: corpusOf('d1', 'd2', 'd3', 'd2') }, maxMemoryBytes: 0 }),
      'invalid_request',
      /^corpus.jsonl:4: _id: is the id of an earlier line too, got "d2"$/,
    ],
    [
      'a folder that is not there',
      () => ({ scratchFolder: '/nowhere/at/all', maxMemoryBytes: 0 }),
      'invalid_configuration',
      /^scratch folder \/nowhere\/at\/all: cannot hold the passages: ENOENT/,
    ],
  ])('refuses %s before the first request', async (_, more, code, message) => {
    const error = await listOf(trecRequests(options(more()))).then(
      () => undefined,
      (e: unknown) => e,
    )
    expect(error).toBeInstanceOf(RankmillError)
    expect(error).toMatchObject({ code })
    expect((error as Error).message).toMatch(message)
    expect(readdirSync(folder)).toEqual([])
  })

  it('leaves out what is missing where that is asked for, and says what', async () => {
    const skipped: SkippedParts[] = []
    const more = new Map([...run, ['q4', rankingOf(['d3'], [1])], ['q5', rankingOf(['d1'], [1])]])
    const requests = await listOf(
      trecRequests(
        options({
          run: more,
          corpus: { file: corpusOf('d2', 'd9') },
          queries: queriesOf('q1', 'q2', 'q5'),
          missing: 'skip',
          onSkipped: (parts) => skipped.push(parts),
        }),
      ),
    )
    expect(requests.map(({ queryId, docIds }) => [queryId, docIds])).toEqual([
      ['q2', ['d2']],
      ['q1', ['d2']],
    ])
    expect(skipped).toEqual([
      {
        unknownQueries: ['q4'],
        missingPassages: ['d3', 'd1'],
        emptyQueries: ['q5'],
        cutPassages: 0,
        mendedPassages: 0,
      },
    ])
  })

  it('cuts what is too long, and counts it, so that no query is lost to one passage', async () => {
    const skipped: SkippedParts[] = []
    const long = 'x'.repeat(280)
    const lines = [
      { _id: long, text: 'long id' },
      { _id: 'd2', text: 'text '.repeat(100) },
      { _id: 'd3', text: 'half \ud800 character' },
    ]
    const onSkipped = (parts: SkippedParts) => void skipped.push(parts)
    const one = new Map([['q1', rankingOf([long, 'd2', 'd3'], [3, 2, 1])]])
    const corpus = { file: sourceOf(jsonl(lines)) }
    const [request] = await listOf(
      trecRequests(options({ run: one, corpus, depth: 9, maxPassageBytes: 99, onSkipped })),
    )
    expect(request?.docIds).toEqual([long, 'd2', 'd3'])
    expect(request?.request.documents).toEqual([
      { text: 'long id', score: 3 },
      { id: 'd2', text: 'text '.repeat(100).slice(0, 99), score: 2 },
      { id: 'd3', text: 'half \ufffd character', score: 1 },
    ])
    expect(skipped).toMatchObject([{ cutPassages: 1, mendedPassages: 1 }])
    // A stored corpus cannot have such an id.
    const stored = options({ run: one, corpus: { name: 'c' }, depth: 9, missing: 'skip', onSkipped })
    const [reference] = await listOf(trecRequests(stored))
    expect(reference?.request.documents).toEqual({ corpus: 'c', ids: ['d2', 'd3'], scores: [2, 1] })
    expect(skipped[1]?.missingPassages).toEqual([long])
  })
})

describe('PassageStore', () => {
  it('gives back the same passages from a file as from memory', async () => {
    const passages = Array.from({ length: 5000 }, (_, i) => ({
      id: `${'long '.repeat(600 * (i % 2))}${i}`,
      text: `文😀 ${i} `.repeat(i % 50),
    }))
    const corpus = () => sourceOf(jsonl(passages), 65_536)
    const wanted = [...passages.filter((_, i) => i % 3 > 0).map(({ id }) => id), 'nowhere']
    for (const maxMemoryBytes of [1e9, 50_000]) {
      const store = await PassageStore.read(corpus(), wanted, { maxMemoryBytes, scratchFolder: folder })
      try {
        expect(store.isSpilled).toBe(maxMemoryBytes < 1e9)
        expect([...store.missing()]).toEqual(['nowhere'])
        passages.forEach(({ id, text }, i) => {
          expect(store.has(id)).toBe(i % 3 > 0)
          expect(store.get(id)).toBe(i % 3 > 0 ? text : undefined)
        })
      } finally {
        await store.close()
      }
      expect(readdirSync(folder)).toEqual([])
    }
  })
})
