/** Token for token against the Python reference (test/golden/tokenize/generate.py). */
import { describe, expect, it } from 'vitest'
import { RankmillError } from '../../../shared/errors.js'
import { PairEncoder } from '../../../worker/tokenize/pair-encoder.js'
import { type GoldenPair, loadChanged, pack, readGolden, textOf } from './golden-pairs.js'

const golden = await readGolden()
const texts = golden.texts.map(textOf)
const tokenisers = await Promise.all(
  Object.entries(golden.tokenisers).map(async ([name, expected]) => ({
    name,
    expected,
    tokenizer: await loadChanged(expected.folder, expected.changes),
  })),
)

it('covers at least 500 pairs', () => {
  expect(golden.pairs.length * tokenisers.length).toBeGreaterThanOrEqual(500)
})

describe.each(tokenisers)('$name', ({ expected, tokenizer }) => {
  it('gives the ids of every text', () => {
    const wrong = texts.flatMap((text, index) => {
      const { ids, complete } = tokenizer.encode(text, 1_000_000)
      const got = pack(ids, golden.full)
      const want = expected.texts[index]
      return complete && JSON.stringify(got) === JSON.stringify(want) ? [] : [{ text: text.slice(0, 80), got, want }]
    })
    expect(wrong).toEqual([])
  })

  it('stops at any number of tokens with the same ids as the whole text has', () => {
    for (const text of texts) {
      const whole = tokenizer.encode(text, 1_000_000).ids
      for (const limit of [0, 1, 2, 7, 64, 511, 512]) {
        const { ids, complete } = tokenizer.encode(text, limit)
        expect([...ids]).toEqual([...whole.subarray(0, limit)])
        expect(complete).toBe(whole.length <= limit)
      }
    }
  })

  it.each(
    golden.truncations.flatMap((truncation, row) =>
      golden.lengths.map((maxTokens, column) => ({
        truncation,
        maxTokens,
        column: row * golden.lengths.length + column,
      })),
    ),
  )('assembles every pair under $truncation with $maxTokens tokens', ({ truncation, maxTokens, column }) => {
    const encoder = new PairEncoder(tokenizer, { maxTokens, truncation, cacheTokens: 1_000_000 })
    const wrong = golden.pairs.flatMap(([first, second], index) => {
      const want = expected.pairs[index]?.[column]
      if (want === 'skipped') return []
      const got = encode(encoder, texts[first] ?? '', texts[second] ?? '')
      return JSON.stringify(got) === JSON.stringify(want) ? [] : [{ first, second, got, want }]
    })
    expect(wrong).toEqual([])
  })
})

function encode(encoder: PairEncoder, query: string, passage: string): GoldenPair {
  try {
    const { ids, secondStart, truncated } = encoder.encode(query, passage)
    return [pack(ids, golden.full), secondStart, truncated]
  } catch (error) {
    if (error instanceof RankmillError && error.details.param === 'query') return null
    throw error
  }
}
