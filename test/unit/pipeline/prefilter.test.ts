/** The lexical prefilter, against BM25 as its formula is written. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bm25 } from '../../../worker/pipeline/bm25.js'
import { bm25Filter, prefilter } from '../../../worker/pipeline/prefilter.js'
import { LocalTexts } from '../../../worker/text/local-texts.js'
import { termsOf } from '../../../worker/text/terms.js'

const never = new AbortController().signal
const ordinary = { priority: 0, deadlineAt: null }
const texts = new LocalTexts(() => Promise.reject(new Error('there is no tokeniser')))
const BM25 = bm25Filter(texts)
const word = fc.constantFrom('job', 'Queue', 'RETRY', 'naïve', '検索', 'x', '!', '42')
const text = (maxLength: number) => fc.array(word, { maxLength }).map((words) => words.join(' '))
const candidatesOf = (texts: readonly string[]) => texts.map((one, index) => ({ index, document: { text: one } }))

function slowBm25(query: string, passages: readonly string[]): number[] {
  const documents = passages.map(termsOf)
  const mean = documents.reduce((sum, terms) => sum + terms.length, 0) / documents.length
  return documents.map((terms) => {
    let score = 0
    for (const term of termsOf(query)) {
      const n = documents.filter((other) => other.includes(term)).length
      const idf = Math.log(1 + (documents.length - n + 0.5) / (n + 0.5))
      const count = terms.filter((other) => other === term).length
      if (count > 0) score += (idf * count * 2.2) / (count + 1.2 * (0.25 + (0.75 * terms.length) / mean))
    }
    return score
  })
}

describe('terms', () => {
  it.each([
    ['The Queue’s 2nd job-id', ['the', 'queue', 's', '2nd', 'job', 'id']],
    ['ＦＵＬＬ ｗｉｄｔｈ', ['full', 'width']],
    ['検索 mixes漢字', ['検', '索', 'mixes', '漢', '字']],
    ['नमस्ते', ['नमस्ते']],
    ['!? …', []],
  ])('of %s', (source, terms) => expect(termsOf(source)).toEqual(terms))
})

describe('bm25', () => {
  it('is what its formula says', async () => {
    await fc.assert(
      fc.asyncProperty(text(6), fc.array(text(12), { minLength: 1, maxLength: 12 }), async (query, passages) => {
        const scores = await bm25(query, passages, texts, ordinary, never)
        for (const [i, score] of slowBm25(query, passages).entries()) expect(scores[i]).toBeCloseTo(score, 10)
      }),
    )
  })

  it('lets others go first while it works, and stops when told so', async () => {
    const passages = Array.from({ length: 20_000 }, (_, i) => `passage ${i} ${'about jobs and queues '.repeat(10)}`)
    const stop = new AbortController()
    setImmediate(() => stop.abort(new Error('no longer wanted')))
    await expect(bm25('jobs', passages, texts, ordinary, stop.signal)).rejects.toThrow('no longer wanted')
  })
})

describe('prefilter', () => {
  it('keeps the best, ties by index, and gives the others in its order', async () => {
    const keep = fc.oneof(
      fc.integer({ min: 1, max: 20 }),
      fc.double({ min: 0.01, max: 0.99, noNaN: true }),
      fc.constant('auto' as const),
    )
    const lists = fc.array(text(8), { minLength: 1, maxLength: 60 })
    await fc.assert(
      fc.asyncProperty(text(4), lists, keep, async (query, passages, wanted) => {
        const { kept, rest } = await prefilter(
          { ...ordinary, query, topN: null, fuse: null },
          wanted,
          BM25,
          candidatesOf(passages),
          never,
        )
        const scores = await bm25(query, passages, texts, ordinary, never)
        const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length
        const ranking = passages.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b)
        const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
        const floor = scores[ranking[9] ?? -1] === undefined ? 0 : scores[ranking[9]!]! - deviation
        const near = Math.max(20, scores.filter((score) => score >= floor).length)
        const count = wanted === 'auto' ? near : wanted < 1 ? Math.ceil(passages.length * wanted) : wanted
        expect(kept.map(({ index }) => index)).toEqual(ranking.slice(0, count).sort((a, b) => a - b))
        expect(rest.map(({ index }) => index)).toEqual(ranking.slice(count))
      }),
    )
  })

  it('stops by itself where the rest is far behind the last one wanted', async () => {
    const candidates = candidatesOf(Array.from({ length: 1000 }, (_, i) => (i % 20 === 7 ? 'job' : 'queue')))
    const request = { ...ordinary, query: 'job', topN: 3, fuse: null }
    const { kept } = await prefilter(request, 'auto', BM25, candidates, never)
    expect(kept.map(({ index }) => index % 20)).toEqual(new Array(50).fill(7))
    const all = await prefilter({ ...request, topN: 51 }, 'auto', BM25, candidates, never)
    expect(all.kept).toHaveLength(1000)
  })

  it.each([
    ['a number', 30, 30],
    ['a share', 0.07, 70],
    ['the smallest share', 1e-6, 1],
    ['more than there are', 5000, 1000],
  ])('keeps %s', async (_, keep, count) => {
    const candidates = candidatesOf(Array.from({ length: 1000 }, (__, i) => `job ${i}`))
    const { kept, rest } = await prefilter(
      { ...ordinary, query: 'job', topN: 3, fuse: null },
      keep,
      BM25,
      candidates,
      never,
    )
    expect([kept.length, rest.length]).toEqual([count, 1000 - count])
  })
})
