import { describe, expect, test } from 'vitest'
import { openModel } from '../../../worker/model/model.js'
import type { PromptSettings } from '../../../worker/tokenize/chat-prompt.js'
import type { Truncation } from '../../../worker/tokenize/pair-encoder.js'
import { PromptEncoder } from '../../../worker/tokenize/prompt-encoder.js'
import { loadTokenizer } from '../../../worker/tokenize/tokenizer.js'
import { CAUSAL_FIXTURES, type CausalFixture, causalGolden, causalModel } from '../../fixtures/models/causal-models.js'
import { temporaryFolder } from '../../fixtures/models/tiny-models.js'

const opened = new Map<CausalFixture, ReturnType<typeof open>>()

async function open(name: CausalFixture) {
  const cacheDir = await temporaryFolder()
  const model = await openModel(causalModel(name), { dtype: 'fp32', device: 'cpu', cacheDir, allowHub: false })
  return { model, tokenizer: await loadTokenizer(model.folder), prompt: model.prompt as PromptSettings }
}

async function encoderOf(
  name: CausalFixture,
  instruction: string | null,
  most?: number,
  truncation: Truncation = 'longest_first',
) {
  const opening = opened.get(name) ?? open(name)
  opened.set(name, opening)
  const { model, tokenizer, prompt } = await opening
  return new PromptEncoder(tokenizer, prompt, { maxTokens: most ?? model.maxTokens, truncation, instruction })
}

describe.each(CAUSAL_FIXTURES)('%s', (name) => {
  test('prompts have the ids that the reference gives them', async () => {
    for (const { query, document, instruction, ids } of causalGolden(name)) {
      const encoder = await encoderOf(name, instruction)
      const pair = encoder.encode(query, document)
      expect([...pair.ids]).toEqual(ids)
    }
  })

  test('what all prompts of a query begin with is found, and is where they do', async () => {
    const rows = causalGolden(name).filter(({ instruction }) => instruction === null)
    const encoder = await encoderOf(name, null)
    for (const query of new Set(rows.map((row) => row.query))) {
      const pairs = rows.filter((row) => row.query === query).map(({ document }) => encoder.encode(query, document))
      const [first] = pairs
      for (const pair of pairs) {
        expect(pair.prefix).toBeGreaterThan(8)
        expect(pair.ids.subarray(0, pair.prefix)).toEqual(first?.ids.subarray(0, pair.prefix))
      }
    }
  })
})

const LONG = 'The queue holds what is to be done, and a lock says who does it. '.repeat(40)

test('a prompt that is cut ends as its template does', async () => {
  const encoder = await encoderOf('qwen3', null, 200)
  const whole = (await encoderOf('qwen3', null)).encode('Redis', 'no')
  const cut = encoder.encode('Redis', LONG)
  expect(cut.ids).toHaveLength(200)
  expect(cut.truncated).toBe(true)
  expect(cut.ids.subarray(-8)).toEqual(whole.ids.subarray(-8))
})

test('tokens of a document are counted before it comes into the prompt', async () => {
  const encoder = await encoderOf('qwen3', null)
  const cut = encoder.encode('Redis', 'The queue holds what is to be done', 2)
  expect(cut.truncated).toBe(true)
  const { start, end } = encoder.locate('The queue holds what is to be done', [0, 2])
  expect(cut.ids).toEqual(encoder.encode('Redis', 'The queue holds what is to be done'.slice(start, end)).ids)
})

test('windows are prompts of their own, and reach to the end of the document', async () => {
  const encoder = await encoderOf('qwen3', null, 200)
  const { pairs, spans, truncated } = encoder.encodeWindows('Redis', LONG, { maxWindows: 50, overlap: 0.2 })
  expect(pairs.length).toBeGreaterThan(3)
  expect(truncated).toBe(false)
  for (const pair of pairs) {
    expect(pair.ids.length).toBeLessThanOrEqual(200)
    expect(pair.truncated).toBe(false)
  }
  expect(encoder.locate(LONG, spans.at(-1) ?? [0, 0]).end).toBe(LONG.trimEnd().length)
})

test('a query that leaves no room is refused where only documents may be cut', async () => {
  expect((await encoderOf('qwen3', null, 120)).encode(LONG, 'no').truncated).toBe(true)
  const encoder = await encoderOf('qwen3', null, 120, 'only_second')
  expect(() => encoder.encode(LONG, 'no')).toThrow(/query has a prompt of 120 or more tokens/)
})
