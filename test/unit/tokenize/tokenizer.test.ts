import { readFile } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../../worker/tokenize/tokenizer.js'
import { loadWritten } from './golden-pairs.js'

const names = ['wordpiece-cased', 'unigram', 'bpe']
const folderOf = (name: string) => path.resolve('test/golden/tokenize', name)
const tokenisers = await Promise.all(
  names.map(async (name) => ({ name, tokenizer: await loadTokenizer(folderOf(name)) })),
)

describe.each(tokenisers)('$name', ({ tokenizer }) => {
  const piece = fc.oneof(
    fc.constantFrom(
      ' ',
      '  ',
      '\n',
      'job',
      'Retry',
      "it's",
      '[SEP]',
      '<mask>',
      '検索',
      'قائمة',
      'สวัสดี',
      '👩‍👩‍👧',
      'e\u0301',
      '==',
      '한국',
    ),
    fc.string({ unit: 'grapheme', maxLength: 8 }),
  )

  it('cuts long texts without changing their first tokens', () => {
    // Repeated, a short random text becomes one that is long enough to be cut.
    const long = fc
      .tuple(fc.array(piece, { minLength: 1, maxLength: 12 }), fc.array(piece, { minLength: 1, maxLength: 12 }))
      .map(([head, body]) => head.join('') + body.join('').repeat(1 + Math.floor(12_000 / (body.join('').length + 1))))
    fc.assert(
      fc.property(long, fc.integer({ min: 0, max: 200 }), (text, limit) => {
        const whole = tokenizer.encode(text, 1_000_000)
        const part = tokenizer.encode(text, limit)
        expect(whole.complete).toBe(true)
        expect([...part.ids]).toEqual([...whole.ids.subarray(0, limit)])
        expect(part.complete).toBe(whole.ids.length <= limit)
      }),
      { numRuns: 60 },
    )
  })

  it('reads a lone surrogate as U+FFFD', () => {
    expect(tokenizer.encode('a\ud800b \udc00', 100)).toEqual(tokenizer.encode('a\ufffdb \ufffd', 100))
  })

  it('gives ids under vocabularySize and knows its padding', () => {
    const { ids } = tokenizer.encode('Any text, 検索 <mask> [MASK] RankMill  |||IP_ADDRESS||| ☃', 1000)
    expect(Math.max(...ids, ...tokenizer.template.before, tokenizer.padId)).toBeLessThan(tokenizer.vocabularySize)
  })

  it.each(['Retry the job. ', '検索結果', 'x', '=', ' ', '\n', '👍🏽', 'नमस्ते', '[SEP', "'"])(
    'reads 10 MB of %j in a bounded time',
    (unit) => {
      const text = unit.repeat(10_000_000 / unit.length)
      const start = process.cpuUsage()
      expect(tokenizer.encode(text, 512).ids.length).toBeLessThanOrEqual(512)
      // Generous: tokenising all of it takes 10 to 100 times as long. Of the processor, whatever else the machine does.
      const { user, system } = process.cpuUsage(start)
      expect((user + system) / 1000).toBeLessThan(4000)
    },
  )
})

it.each(['rankmill-small', 'wordpiece-cased'])(
  'WordPiece of %s reads words alike wherever in a text they are',
  async (name) => {
    const tokenizer = await loadTokenizer(name === 'wordpiece-cased' ? folderOf(name) : path.resolve('models', name))
    const words = ['𝔸retry👩‍👧', 'naïve', '検索', 'ﬁlter', 'İ', 'x'.repeat(101), '𝒳'.repeat(101), '𝒳'.repeat(51)]
    const { ids: known } = tokenizer.encode(words.join(' '), 10_000)
    // Texts are read in chunks of 4,096 code units: each place of each word is once where one ends.
    for (let filler = 3600; filler <= 4100; filler++) {
      const { ids } = tokenizer.encode(`${'a'.repeat(100)} ${' '.repeat(filler - 101)}${words.join(' ')}`, 10_000)
      expect(ids.slice(ids.length - known.length)).toEqual(known)
    }
  },
)

describe('loadTokenizer', () => {
  const config = '{"pad_token":"[PAD]"}'
  const changed = async (changes: Record<string, unknown>, settings = config) => {
    const definition = JSON.parse(await readFile(path.join(folderOf('bpe'), 'tokenizer.json'), 'utf8')) as object
    return loadWritten({ ...definition, ...changes }, settings)
  }

  it.each([
    ['a missing folder', () => loadTokenizer('/nonexistent'), /tokenizer\.json cannot be read/],
    ['a truncated file', () => loadWritten('{"model": {', config), /is not JSON/],
    ['a damaged config', () => changed({}, '{'), /tokenizer_config\.json: the file is damaged/],
    ['an array', () => loadWritten([], config), /tokenizer/],
    ['no model', () => changed({ model: undefined }), /model/],
    ['an unknown model', () => changed({ model: { type: 'Sentences' } }), /Sentences/],
    ['an empty vocabulary', () => changed({ model: { type: 'BPE', vocab: {}, merges: [] } }), /vocab/],
    ['an unknown normaliser', () => changed({ normalizer: { type: 'Rot13' } }), /Rot13/],
    ['an unknown pre-tokeniser', () => changed({ pre_tokenizer: { type: 'UnicodeScripts' } }), /UnicodeScripts/],
    ['an unknown template', () => changed({ post_processor: { type: 'Other' } }), /post_processor/],
    ['a class of its own', () => changed({}, '{"tokenizer_class":"T5Tokenizer"}'), /T5Tokenizer/],
    [
      'a class for another model',
      () => changed({}, '{"tokenizer_class":"BertTokenizer"}'),
      /BertTokenizer wants .* WordPiece/,
    ],
    ['truncation on the left', () => changed({}, '{"pad_token":"[PAD]","truncation_side":"left"}'), /left/],
  ])('refuses %s', async (_name, load, message) => {
    await expect(load()).rejects.toMatchObject({ code: 'invalid_model', message: expect.stringMatching(message) })
  })
})
