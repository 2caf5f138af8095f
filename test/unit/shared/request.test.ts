import { describe, expect, it } from 'vitest'
import { RankmillError } from '../../../shared/errors.js'
import { fingerprintOf } from '../../../shared/protocol/fingerprint.js'
import { parseRequest, requestSchema } from '../../../shared/protocol/request.js'

const schema = requestSchema({
  maxDocuments: 100_000,
  maxDocumentBytes: 1_000_000,
  maxQueryBytes: 1000,
  maxPrefilterDocuments: 3,
  maxRequestBytes: 10_000_000,
})
const parse = (input: unknown) => parseRequest(input, schema, () => 'new-id')
const valid = { query: 'q', documents: ['a'] }
const filtered = (keep: unknown) => ({ ...valid, strategy: { prefilter: { keep } } })

function refusal(input: unknown): RankmillError {
  try {
    parse(input)
  } catch (error) {
    expect(error).toBeInstanceOf(RankmillError)
    return error as RankmillError
  }
  throw new Error('was accepted')
}

describe('parseRequest', () => {
  it('fills every field', () => {
    expect(parse({ query: 'q', documents: ['a', { id: 'x', text: 'b' }] })).toEqual({
      id: 'new-id',
      query: 'q',
      instruction: null,
      documents: [{ text: 'a' }, { id: 'x', text: 'b' }],
      model: null,
      topN: null,
      returnDocuments: false,
      maxTokensPerDoc: null,
      priority: 0,
      deadlineMs: null,
      dtype: 'auto',
      longDocuments: 'truncate',
      exit: 'never',
      prefilter: null,
      cascade: [],
      fuse: null,
    })
  })

  it('names a field as it is called, whatever a prototype has under that name', () => {
    for (const name of ['__proto__', 'constructor', 'toString']) {
      const error = refusal(JSON.parse(`{"query":"q","documents":["a"],"${name}":{"x":1}}`))
      expect(error.message).toBe(`${name}: unknown field`)
    }
  })

  it('takes the names of the wire as well as the names of the library', () => {
    const wire = parse({
      ...valid,
      top_n: 3,
      return_documents: true,
      max_tokens_per_doc: 5,
      deadline_ms: 9,
      strategy: { dtype: 'fp32' },
    })
    const library = parse({
      ...valid,
      topN: 3,
      returnDocuments: true,
      maxTokensPerDoc: 5,
      deadlineMs: 9,
      strategy: { dtype: 'fp32' },
    })
    expect(wire).toEqual(library)
    expect(wire).toMatchObject({ topN: 3, returnDocuments: true, maxTokensPerDoc: 5, deadlineMs: 9, dtype: 'fp32' })
  })

  it('takes a fusion as the share of the model', () => {
    const filled = (fuse: unknown) => parse({ ...valid, strategy: { prefilter: {}, fuse } }).fuse
    expect([filled('none'), filled(null)]).toEqual([null, null])
    expect(filled('rrf')).toEqual({ by: 'rank', weight: 0.5, of: null })
    expect(filled({ weight: 0 })).toEqual({ by: 'rank', weight: 0, of: null })
    expect(filled({ weight: 0.3, by: 'score' })).toEqual({ by: 'score', weight: 0.3, of: null })
    expect(filled('learned')).toEqual({ by: 'score', weight: 'learned', of: null })
    const ofSeveral = (fuse: unknown) => parse({ ...valid, strategy: { prefilter: { model: 'bm25+b' }, fuse } }).fuse
    expect(ofSeveral({ weight: 0.3, of: 'b' })).toEqual({ by: 'rank', weight: 0.3, of: 1 })
    expect(ofSeveral({ weight: 'learned', of: 'bm25' })).toEqual({ by: 'score', weight: 'learned', of: 0 })
    expect(ofSeveral({ weight: 0.3, of: 'bm25+b' })).toEqual({ by: 'rank', weight: 0.3, of: null })
  })

  it('takes a cascade, filled', () => {
    const cascade = (stages: unknown) => parse({ ...valid, strategy: { cascade: stages } }).cascade
    expect([cascade(null), cascade([])]).toEqual([[], []])
    expect(cascade([{ model: 'a', keep: 0.5 }, { model: 'b' }])).toEqual([
      { model: 'a', keep: 0.5 },
      { model: 'b', keep: 'auto' },
    ])
  })

  it('takes a prefilter, filled', () => {
    const filter = (prefilter: object) => parse({ ...valid, strategy: { prefilter } }).prefilter
    expect(filter({})).toEqual({ keep: 'auto', model: 'bm25', by: 'rank' })
    expect(filter({ keep: 0.25 })).toEqual({ keep: 0.25, model: 'bm25', by: 'rank' })
    const several = { keep: 1, model: 'bm25+some-filter', by: 'score' }
    expect(filter(several)).toEqual(several)
  })

  describe('scores of a first stage', () => {
    const strategy = { prefilter: { model: 'bm25+first-stage' } }
    const documents = [
      { text: 'a', score: 2.5 },
      { text: 'b', score: -1 },
    ]
    const reference = { corpus: 'c', ids: ['1', '2'], scores: [2.5, -1] }

    it('are kept where the strategy looks at them, and part of what the request is', () => {
      expect(parse({ query: 'q', documents, strategy }).documents).toEqual(documents)
      expect(parse({ query: 'q', documents: reference, strategy }).documents).toMatchObject({ scores: [2.5, -1] })
      const other = { query: 'q', documents: [documents[0], { text: 'b', score: 1 }], strategy }
      expect(fingerprintOf(parse(other))).not.toBe(fingerprintOf(parse({ query: 'q', documents, strategy })))
      const others = { query: 'q', documents: { ...reference, scores: [2.5, 1] }, strategy }
      expect(fingerprintOf(parse(others))).not.toBe(fingerprintOf(parse({ ...others, documents: reference })))
    })

    it('are left out where they change nothing', () => {
      expect(parse({ query: 'q', documents }).documents).toEqual([{ text: 'a' }, { text: 'b' }])
      expect(parse({ query: 'q', documents: reference }).documents).toMatchObject({ scores: null })
    })

    it.each([
      ['one is lacking', [documents[0], 'b'], 'documents.1.score', /"first-stage", which needs one of every document/],
      ['they are lacking', { corpus: 'c', ids: ['1'] }, 'documents.scores', /"first-stage", which needs one for each/],
      ['their number differs', { ...reference, scores: [1] }, 'documents.scores', /each of the 2 ids, got 1/],
      ['one is no number', [{ text: 'a', score: 'b' }], 'documents.0.score', /expected number, .*got "b"/],
      [
        'one is too large',
        { ...reference, scores: [1, 1e101] },
        'documents.scores.1',
        /expected number to be <=1e\+100/,
      ],
      ['one is not finite', [{ text: 'a', score: Number.NaN }], 'documents.0.score', /expected number/],
    ])('are refused where %s', (_, given, param, message) => {
      const error = refusal({ query: 'q', documents: given, strategy })
      expect(error).toMatchObject({ code: 'invalid_request', details: { param } })
      expect(error.message).toMatch(message)
    })
  })

  it('takes passages of a corpus by their ids', () => {
    expect(parse({ query: 'q', documents: { corpus: 'c', ids: ['1', '2'] } }).documents).toEqual({
      corpus: 'c',
      version: null,
      ids: ['1', '2'],
      missing: 'error',
      scores: null,
    })
    const full = { corpus: 'file:/data/c', version: '7', ids: ['1'], missing: 'skip', scores: null }
    expect(parse({ query: 'q', documents: full }).documents).toEqual(full)
  })

  it.each(['', 'a b', '../c', 'a:b', '.c', 'x'.repeat(129), 'file:', 'file:a\0b'])(
    'refuses the corpus %j',
    (corpus) => {
      const error = refusal({ query: 'q', documents: { corpus, ids: ['1'] } })
      expect(error).toMatchObject({ code: 'invalid_request', details: { param: 'documents.corpus' } })
      expect(error.message).toMatch(/must be 1 to 128/)
    },
  )

  it.each([
    ['no object', 'text', 'invalid_request', 'request', /object/],
    ['null', null, 'invalid_request', 'request', /object/],
    ['a share of all', filtered(1.5), 'invalid_request', 'strategy.prefilter.keep', /whole number.*below 1.*got 1\.5/],
    ['keep 0', filtered(0), 'invalid_request', 'strategy.prefilter.keep', /got 0$/],
    ['keep most', filtered('most'), 'invalid_request', 'strategy.prefilter.keep', /"auto", got "most"/],
    [
      'too much to filter',
      { ...filtered(1), documents: ['a', 'b', 'c', 'd'] },
      'too_many_documents',
      'documents',
      /at most 3 .*maxPrefilterDocuments.*got 4/,
    ],
    ['fusion of nothing', { ...valid, strategy: { fuse: 'rrf' } }, 'invalid_request', 'strategy.fuse', /prefilter/],
    [
      'a weight over 1',
      { ...valid, strategy: { fuse: { weight: 2 }, prefilter: {} } },
      'invalid_request',
      'strategy.fuse.weight',
      /<=1, got 2/,
    ],
    [
      'no kind of fusion',
      { ...valid, strategy: { fuse: 'sum', prefilter: {} } },
      'invalid_request',
      'strategy.fuse',
      /"none", "rrf", "learned" or \{"weight": 0 to 1.*got "sum"/,
    ],
    [
      'a fusion of another filter',
      { ...valid, strategy: { fuse: { weight: 0.5, of: 'c' }, prefilter: { model: 'bm25+b' } } },
      'invalid_request',
      'strategy.fuse.of',
      /one of the prefilter's \(bm25, b\), got "c"/,
    ],
    [
      'learned weights of ranks',
      { ...valid, strategy: { fuse: { weight: 'learned', by: 'rank' }, prefilter: {} } },
      'invalid_request',
      'strategy.fuse.by',
      /of scores, got "rank"/,
    ],
    [
      'a fusion by votes',
      { ...valid, strategy: { fuse: { weight: 0.5, by: 'votes' }, prefilter: {} } },
      'invalid_request',
      'strategy.fuse',
      /"by": "rank" or "score"/,
    ],
    [
      'a cascade of nothing',
      { ...valid, strategy: { cascade: [{ model: 'a', keep: 0 }] } },
      'invalid_request',
      'strategy.cascade.0.keep',
      /got 0$/,
    ],
    [
      'too many models',
      { ...valid, strategy: { cascade: Array(5).fill({ model: 'a' }) } },
      'invalid_request',
      'strategy.cascade',
      /at most 4/,
    ],
    ['empty query', { ...valid, query: '' }, 'invalid_request', 'query', /empty/],
    ['blank query', { ...valid, query: ' \n' }, 'invalid_request', 'query', /empty/],
    ['no query', { documents: ['a'] }, 'invalid_request', 'query', /string/],
    ['long query', { ...valid, query: 'x'.repeat(1001) }, 'invalid_request', 'query', /at most 1000 bytes, got 1001/],
    ['no documents', { query: 'q' }, 'invalid_request', 'documents', /array/],
    ['empty documents', { query: 'q', documents: [] }, 'invalid_request', 'documents', /at least one/],
    [
      'too many documents',
      { query: 'q', documents: new Array(100_001).fill('a') },
      'too_many_documents',
      'documents',
      /at most 100000 documents, got 100001/,
    ],
    [
      'a 10 MB document',
      { query: 'q', documents: ['a', 'x'.repeat(10_000_000)] },
      'document_too_long',
      'documents.1.text',
      /at most 1000000 bytes, got 10000000/,
    ],
    [
      'bytes, not characters',
      { query: 'q', documents: ['é'.repeat(500_001)] },
      'document_too_long',
      'documents.0.text',
      /got 1000002/,
    ],
    [
      'a number for a document',
      { query: 'q', documents: ['a', 3] },
      'invalid_request',
      'documents.1',
      /object, received number, got 3/,
    ],
    [
      'a document without text',
      { query: 'q', documents: [{ id: 'x' }] },
      'invalid_request',
      'documents.0.text',
      /string/,
    ],
    [
      'an unknown field in a document',
      { query: 'q', documents: [{ text: 'a', txt: 'b' }] },
      'invalid_request',
      'documents.0.txt',
      /unknown field/,
    ],
    ['lone surrogate in the query', { ...valid, query: 'a\ud800' }, 'invalid_request', 'query', /surrogate/],
    [
      'lone surrogate in a document',
      { query: 'q', documents: ['\udc00'] },
      'invalid_request',
      'documents.0.text',
      /surrogate/,
    ],
    ['NaN priority', { ...valid, priority: Number.NaN }, 'invalid_request', 'priority', /got NaN/],
    ['negative priority', { ...valid, priority: -1 }, 'invalid_request', 'priority', />=0, got -1/],
    ['fractional topN', { ...valid, topN: 1.5 }, 'invalid_request', 'topN', /int.*got 1\.5/],
    ['topN of 0', { ...valid, topN: 0 }, 'invalid_request', 'topN', />=1, got 0/],
    [
      'infinite deadline',
      { ...valid, deadlineMs: Number.POSITIVE_INFINITY },
      'invalid_request',
      'deadlineMs',
      /number/,
    ],
    ['unknown field', { ...valid, topK: 3 }, 'invalid_request', 'topK', /unknown field/],
    ['unknown strategy', { ...valid, strategy: { magic: 1 } }, 'invalid_request', 'strategy.magic', /unknown field/],
    ['wrong type', { ...valid, returnDocuments: 'yes' }, 'invalid_request', 'returnDocuments', /boolean.*"yes"/],
    ['a field twice', { ...valid, topN: 1, top_n: 2 }, 'invalid_request', 'top_n', /twice/],
    ['empty id', { ...valid, id: '' }, 'invalid_request', 'id', /empty/],
    [
      'a reference without ids',
      { query: 'q', documents: { corpus: 'c' } },
      'invalid_request',
      'documents.ids',
      /array/,
    ],
  ])('refuses %s', (_name, input, code, param, message) => {
    const error = refusal(input)
    expect(error.code).toBe(code)
    expect(error.details.param || 'request').toBe(param)
    expect(error.message).toMatch(message)
    expect(error.message.startsWith(`${param}:`)).toBe(true)
    expect(error.message.length).toBeLessThan(300)
  })
})
