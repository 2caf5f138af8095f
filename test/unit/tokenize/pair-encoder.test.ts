import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { longestFirst, PairEncoder } from '../../../worker/tokenize/pair-encoder.js'
import { loadTokenizer, type Tokenizer } from '../../../worker/tokenize/tokenizer.js'

const folder = 'test/golden/tokenize/wordpiece-cased'
const tokenizer = await loadTokenizer(folder)
const [cls, sep] = [2, 3]
const word = fc.constantFrom('a', 'job', 'retry', '[SEP]', 'naïve', '検索', '!', 'RankMill')
const text = fc.array(word, { maxLength: 60 }).map((words) => words.join(' '))

/** truncate_encodings of the Rust `tokenizers`, line by line. */
function referenceLengths(first: number, second: number, budget: number): [number, number] {
  if (first + second <= budget) return [first, second]
  let [n1, n2] = first > second ? [second, first] : [first, second]
  n2 = n1 > budget ? n1 : Math.max(n1, budget - n1)
  if (n1 + n2 > budget) {
    n1 = Math.floor(budget / 2)
    n2 = n1 + (budget % 2)
  }
  return first > second ? [n2, n1] : [n1, n2]
}

describe('longestFirst', () => {
  it('cuts as truncate_encodings does', () => {
    for (let budget = 1; budget <= 12; budget += 1) {
      for (let first = 0; first <= 26; first += 1) {
        for (let second = 0; second <= 26; second += 1) {
          expect(longestFirst(first, second, budget)).toEqual(referenceLengths(first, second, budget))
        }
      }
    }
  })
})

describe('PairEncoder', () => {
  it('keeps the special tokens, the limit, and the beginning of both texts', () => {
    fc.assert(
      fc.property(text, text, fc.integer({ min: 4, max: 40 }), (query, passage, maxTokens) => {
        const encoder = new PairEncoder(tokenizer, { maxTokens, truncation: 'longest_first', cacheTokens: 10_000 })
        const { ids, secondStart, truncated } = encoder.encode(query, passage)
        const first = tokenizer.encode(query, 1000).ids
        const second = tokenizer.encode(passage, 1000).ids
        const [n1, n2] = referenceLengths(first.length, second.length, maxTokens - 3)
        expect([...ids]).toEqual([cls, ...first.subarray(0, n1), sep, ...second.subarray(0, n2), sep])
        expect(secondStart).toBe(n1 + 2)
        expect(truncated).toBe(n1 < first.length || n2 < second.length)
        expect(ids.length).toBeLessThanOrEqual(maxTokens)
      }),
    )
  })

  it('gives the same with and without a cache, whatever came before', () => {
    const cached = new PairEncoder(tokenizer, { maxTokens: 16, truncation: 'longest_first', cacheTokens: 500 })
    const plain = new PairEncoder(tokenizer, { maxTokens: 16, truncation: 'longest_first', cacheTokens: 0 })
    fc.assert(
      fc.property(text, text, fc.option(fc.nat(20), { nil: undefined }), (query, passage, limit) => {
        expect(cached.encode(query, passage, limit)).toEqual(plain.encode(query, passage, limit))
      }),
    )
  })

  it.each(['longest_first', 'only_second'] as const)('gives a list what it gives each pair (%s)', (truncation) => {
    const encoder = new PairEncoder(tokenizer, { maxTokens: 24, truncation, cacheTokens: 500 })
    const limit = fc.option(fc.nat(30), { nil: undefined })
    fc.assert(
      fc.property(
        fc.constantFrom('a job', 'retry', ''),
        fc.array(text, { maxLength: 5 }),
        limit,
        (query, passages, most) => {
          const pairs = passages.map((passage) => encoder.encode(query, passage, most))
          const { ids, lengths, secondStarts, truncated } = encoder.encodeEach(query, passages, most)
          expect([...ids]).toEqual(pairs.flatMap((pair) => [...pair.ids]))
          expect([...lengths]).toEqual(pairs.map((pair) => pair.ids.length))
          expect([...secondStarts]).toEqual(pairs.map(({ secondStart }) => secondStart))
          expect([...truncated]).toEqual(pairs.map((pair) => Number(pair.truncated)))
        },
      ),
    )
  })

  it('tokenises each distinct text once', () => {
    const seen: string[] = []
    const counting: Tokenizer = {
      ...tokenizer,
      encode: (source, maxTokens) => {
        seen.push(source)
        return tokenizer.encode(source, maxTokens)
      },
    }
    const encoder = new PairEncoder(counting, { maxTokens: 32, truncation: 'only_second', cacheTokens: 10_000 })
    for (const passage of ['one', 'two', 'one', 'two', 'one']) encoder.encode('why', passage)
    expect(seen).toEqual(['why', 'one', 'two'])
  })

  it('cuts a passage to maxTokensPerDocument and says so', () => {
    const encoder = new PairEncoder(tokenizer, { maxTokens: 32, truncation: 'longest_first', cacheTokens: 10_000 })
    const whole = encoder.encode('why', 'a a a a')
    const cut = encoder.encode('why', 'a a a a', 2)
    expect(whole.truncated).toBe(false)
    expect(cut.truncated).toBe(true)
    expect(cut.ids.length).toBe(whole.ids.length - 2)
    expect(encoder.encode('why', 'a a', 2).truncated).toBe(false)
  })

  it('gives the spare token to the longer text when both are over an odd budget', () => {
    const encoder = new PairEncoder(tokenizer, { maxTokens: 8, truncation: 'longest_first', cacheTokens: 10_000 })
    const long = 'a '.repeat(500)
    expect(encoder.encode(`${long} a`, long).secondStart).toBe(5)
    expect(encoder.encode(long, `${long} a`).secondStart).toBe(4)
    expect(encoder.encode(long, long).secondStart).toBe(4)
    expect(encoder.encode(long, `${long} a`, 40).secondStart).toBe(5)
  })

  it('names the query when only_second leaves no room, and maxTokens when nothing does', () => {
    const encoder = new PairEncoder(tokenizer, { maxTokens: 8, truncation: 'only_second', cacheTokens: 10_000 })
    expect(encoder.encode('a a a a a', '').ids.length).toBe(8)
    expect(() => encoder.encode('a a a a a', 'a')).toThrow(
      expect.objectContaining({ code: 'invalid_request', details: { param: 'query' } }),
    )
    expect(() => new PairEncoder(tokenizer, { maxTokens: 3, truncation: 'only_second', cacheTokens: 0 })).toThrow(
      expect.objectContaining({ code: 'invalid_configuration', details: { param: 'maxTokens' } }),
    )
  })
})
