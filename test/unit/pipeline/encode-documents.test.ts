/** Long documents, against the same rules written the slow and obvious way. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { encodeDocuments, placeWindows } from '../../../worker/pipeline/encode-documents.js'
import { LocalTexts } from '../../../worker/text/local-texts.js'
import { PairEncoder } from '../../../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../../../worker/tokenize/tokenizer.js'

const folders = ['wordpiece-cased', 'bpe', 'unigram'].map((name) => `test/golden/tokenize/${name}`)
const tokenizers = await Promise.all(folders.map(loadTokenizer))
const word = fc.constantFrom(
  'a',
  'job',
  'retry',
  'naïve',
  '検索結果',
  'extraordinarily',
  '!',
  '.',
  '[SEP]',
  '😀',
  'The',
)
const text = fc.array(word, { maxLength: 120 }).map((words) => words.join(' '))
const maxTokens = fc.integer({ min: 8, max: 40 })
const limit = fc.option(fc.integer({ min: 1, max: 80 }), { nil: undefined })

function encoderOf(tokenizer: (typeof tokenizers)[number], max: number): PairEncoder {
  return new PairEncoder(tokenizer, { maxTokens: max, truncation: 'longest_first', cacheTokens: 10_000 })
}

describe('windows', () => {
  it('cover the document up to the limits, overlap as told, and each is a full pair', () => {
    const rule = fc.record({ maxWindows: fc.integer({ min: 1, max: 6 }), overlap: fc.constantFrom(0, 0.25, 0.5, 0.9) })
    const tokenizerOf = fc.constantFrom(...tokenizers)
    fc.assert(
      fc.property(tokenizerOf, text, text, maxTokens, rule, limit, (tokenizer, query, passage, max, windows, cap) => {
        const encoder = encoderOf(tokenizer, max)
        const { pairs, spans, truncated } = encoder.encodeWindows(query, passage, windows, cap)
        const cut = encoder.encode(query, passage, cap)
        const all = [...tokenizer.encode(passage, 10_000).ids].slice(0, cap)
        const { before, between, after } = tokenizer.template
        const queryIds = [...tokenizer.encode(query, 10_000).ids]
        const special = before.length + between.length + after.length
        const kept = encoder.room(query, passage, cap).tokens
        const queryKept = cut.ids.length - special - kept
        const expected: [number, number][] = []
        const step = Math.max(1, kept - Math.floor(kept * windows.overlap))
        let reached = 0
        for (let from = 0; expected.length < windows.maxWindows; from += step) {
          const to = Math.min(from + kept, all.length)
          expected.push([Math.max(0, to - kept), to])
          reached = to
          if (to >= all.length) break
        }
        if (kept === 0) return
        expect(spans).toEqual(expected)
        expect(truncated).toBe(
          queryKept < queryIds.length ||
            reached < all.length ||
            all.length < tokenizer.encode(passage, 10_000).ids.length,
        )
        pairs.forEach((pair, i) => {
          const [from, to] = expected[i]!
          expect([...pair.ids]).toEqual([
            ...before,
            ...queryIds.slice(0, queryKept),
            ...between,
            ...all.slice(from, to),
            ...after,
          ])
        })
        if (!cut.truncated) expect(pairs).toEqual([cut])
      }),
    )
  })

  it('are found in the text: its characters give the tokens again, where the tokens are words', () => {
    const plain = fc.array(fc.constantFrom('a', 'job', '!', '.'), { minLength: 1, maxLength: 80 })
    const [tokenizer] = tokenizers
    fc.assert(
      fc.property(plain, fc.nat(), fc.nat(), (words, a, b) => {
        const passage = words.join(' ')
        const { ids } = tokenizer!.encode(passage, 1000)
        const from = a % ids.length
        const to = from + 1 + (b % (ids.length - from))
        const { start, end } = encoderOf(tokenizer!, 20).locate(passage, [from, to])
        expect([...tokenizer!.encode(passage.slice(start, end), 1000).ids]).toEqual([...ids.subarray(from, to)])
      }),
    )
  })

  it('lie inside the text in order, and hold their words, whatever the tokeniser', () => {
    fc.assert(
      fc.property(fc.constantFrom(...tokenizers), text, fc.nat(), fc.nat(), (tokenizer, passage, a, b) => {
        const { ids } = tokenizer.encode(passage, 1000)
        fc.pre(ids.length > 0)
        const from = a % ids.length
        const to = from + 1 + (b % (ids.length - from))
        const { start, end } = encoderOf(tokenizer, 20).locate(passage, [from, to])
        expect(start).toBeGreaterThanOrEqual(0)
        expect(end).toBeGreaterThanOrEqual(start)
        expect(end).toBeLessThanOrEqual(passage.length)
        if (from === 0) expect(passage.slice(0, start).trim()).toBe('')
        if (to === ids.length) expect(passage.slice(end).trim()).toBe('')
        expect(passage.slice(start, end).isWellFormed()).toBe(true)
      }),
    )
  })

  it('give the document the logit of the best, the first of equals', async () => {
    const encoder = { folder: folders[0]!, maxTokens: 8, truncation: 'longest_first', cacheTokens: 0 } as const
    const by = { texts: new LocalTexts(loadTokenizer), encoder, windows: { maxWindows: 8, overlap: 0 } }
    const ordinary = { priority: 0, deadlineAt: null }
    const job = { query: 'a', maxTokensPerDoc: null, longDocuments: 'windows' as const, ...ordinary }
    const never = new AbortController().signal
    const passages = ['a job', 'a a a a job job job job ! ! ! !']
    const documents = await encodeDocuments(by, job, passages, never)
    expect(documents.map(({ pairs }) => pairs.length)).toEqual([1, 3])
    const scores = documents.map((document, i) =>
      document.score(i === 0 ? Float32Array.of(3) : Float32Array.of(-1, 2, 2)),
    )
    const [whole, part] = await placeWindows(by, ordinary, documents, passages, scores, never)
    expect(whole).toEqual({ logit: 3, truncated: false, window: { index: 0, start: 0, end: 5, count: 1 } })
    expect(part).toMatchObject({ logit: 2, truncated: false, window: { index: 1, count: 3 } })
    expect(passages[1]!.slice(part!.window!.start, part!.window!.end)).toBe('job job job job')
  })
})
