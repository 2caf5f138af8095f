/** Snippets, and the sentences that they are made of. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { sentencesOf } from '../../../worker/text/sentences.js'
import { snippetOf } from '../../../worker/text/snippet.js'

describe('sentences', () => {
  const SEGMENTER = new Intl.Segmenter('en', { granularity: 'sentence' })
  const whole = (text: string) => Array.from(SEGMENTER.segment(text), ({ segment }) => segment)
  const piece = fc.constantFrom(
    ...[
      'The job. ',
      'etc. ',
      '42 ',
      'e.g. ',
      'U.S.',
      ' and',
      '... ',
      '!? ',
      '\n',
      '\n\n',
      '\u2029',
      '“Quote.” ',
      '(No.) ',
    ],
    ...[
      '検索する。',
      '。',
      '3.14',
      ' ',
      'é',
      'e\u0301. ',
      '😀',
      '. ',
      '\u200b',
      '\ud800',
      'What? ',
      ', ',
      'नमस्ते। ',
      '1. ',
    ],
  )

  it('are those of the whole text, however it is sliced', () => {
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 120 }), fc.integer({ min: 2, max: 40 }), (pieces, slice) => {
        const text = pieces.join('')
        expect([...sentencesOf(text, slice, 1_000_000)]).toEqual(whole(text))
      }),
      { numRuns: 2000 },
    )
  })

  it('are all of the text, also where a sentence is too long to be one', () => {
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 80 }), fc.integer({ min: 2, max: 9 }), (pieces, slice) => {
        const text = pieces.join('')
        const sentences = [...sentencesOf(text, slice, 12)]
        expect(sentences.join('')).toBe(text)
        expect(sentences.every((one) => one.length > 0)).toBe(true)
        if (text.isWellFormed()) expect(sentences.every((one) => one.isWellFormed())).toBe(true)
      }),
    )
  })

  it.each([
    ['sentences of two words', 'A b. C d! '],
    ['no end', 'word without an end '],
    ['no spaces', 'x'],
    ['nothing but ends', '. '],
  ])('take time by length and no more: %s', (_, unit) => {
    const seconds = (units: number) => {
      const text = unit.repeat(Math.ceil(units / unit.length))
      const startedAt = performance.now()
      for (const __ of sentencesOf(text));
      return performance.now() - startedAt
    }
    seconds(50_000)
    // Quadratic would be 64 times as long.
    expect(seconds(800_000)).toBeLessThan(24 * Math.max(20, seconds(100_000)))
  })
})

describe('snippet', () => {
  const countWords = (source: string) => source.split(/\s+/).filter(Boolean).length

  it('takes the sentences with the rarest of the query’s words, in their order', () => {
    const document = 'Cats sleep. Dogs bark at cats. A rare heron fishes. Dogs sleep. Dogs and cats eat. '
    const take = (query: string, words: number) => snippetOf(query, document, words, countWords).trim()
    expect(take('heron', 4)).toBe('A rare heron fishes.')
    expect(take('the heron, dogs', 6)).toBe('A rare heron fishes. Dogs sleep.')
    expect(take('cats', 2)).toBe('Cats sleep.')
    expect(take('nothing of it', 2)).toBe('Cats sleep.')
    expect(take('heron', 3)).toBe('Cats sleep.')
  })

  it('never has more tokens than it may, unless the best sentence alone has', () => {
    const sentence = fc
      .array(fc.constantFrom('job', 'queue', 'retry', 'red', 'fox'), { minLength: 1, maxLength: 9 })
      .map((words) => `${words.join(' ').replace(/^./, (c) => c.toUpperCase())}. `)
    fc.assert(
      fc.property(fc.array(sentence, { minLength: 1, maxLength: 12 }), fc.integer({ min: 1, max: 30 }), (all, max) => {
        const snippet = snippetOf('red queue', all.join(''), max, countWords)
        if (all.some((one) => countWords(one) <= max)) expect(countWords(snippet)).toBeLessThanOrEqual(max)
        const kept = snippet.match(/[^.]+\. /g) ?? []
        let at = 0
        for (const one of kept) {
          at = all.indexOf(one, at) + 1
          expect(at).toBeGreaterThan(0)
        }
      }),
    )
  })
})
