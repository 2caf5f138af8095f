/** Requests to causal rerankers, through the queue. */
import { describe, expect, test } from 'vitest'
import type { RerankInput } from '../../producer/index.js'
import { type CausalRow, causalGolden, causalModel } from '../fixtures/models/causal-models.js'
import { tinyModel } from '../fixtures/models/tiny-models.js'
import { useStage } from './stage.js'

const stage = useStage()
const [QWEN, ENCODER] = [causalModel('qwen3-plain'), tinyModel('one-logit')]
const served = { model: [QWEN, ENCODER].join(',') }
const TOLD = 'Find what says how a failure is handled.'
const rows = causalGolden('qwen3-plain')
const [first] = rows
const query = first?.query ?? ''
const of = (instruction: string | null) => rows.filter((row) => row.query === query && row.instruction === instruction)
const documents = of(null).map(({ document }) => document)
const ask = (input: Partial<RerankInput> = {}) =>
  stage()
    .client()
    .rerank({ model: QWEN, query, documents, ...input })

function expectScores(results: readonly { index: number; relevance_score: number }[], wanted: readonly CausalRow[]) {
  expect(results).toHaveLength(wanted.length)
  for (const { index, relevance_score: score } of results)
    expect(score).toBeCloseTo(1 / (1 + Math.exp(-(wanted[index]?.logit ?? Number.NaN))), 4)
}

describe('an instruction', () => {
  test('changes what is answered, and what is kept of answers', async () => {
    await stage().worker(served)
    for (let again = 0; again < 2; again++) {
      expectScores((await ask()).results, of(null))
      expectScores((await ask({ instruction: TOLD })).results, of(TOLD))
    }
    expect((await ask({ instruction: TOLD })).usage).toMatchObject({ cached: documents.length, scored: 0 })
  })

  test('is refused by a model that reads plain pairs, and not given to those of a cascade', async () => {
    await stage().worker(served)
    await expect(ask({ model: ENCODER, instruction: TOLD })).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(/instruction: .*one-logit reads plain pairs, and takes none/),
      details: { param: 'instruction' },
    })
    const { results } = await ask({ instruction: TOLD, strategy: { cascade: [{ model: ENCODER, keep: 3 }] } })
    const seen = results.filter(({ scored_by: by }) => by === QWEN)
    expect(seen).toHaveLength(3)
    for (const { index, relevance_score: score } of seen)
      expect(score).toBeCloseTo(1 / (1 + Math.exp(-(of(TOLD)[index]?.logit ?? Number.NaN))), 4)
  })

  test.each(['', '  ', 'x'.repeat(100_000)])('has to be a text of a bounded length', async (instruction) => {
    await expect(ask({ instruction })).rejects.toMatchObject({
      code: 'invalid_request',
      details: { param: 'instruction' },
    })
  })
})

test('windows and snippets are prompts of parts, early exits are refused', async () => {
  await stage().worker({ ...served, maxTokens: 160 })
  const long = 'The queue holds what is to be done, and a lock says who does it. '.repeat(30)
  const parts = await ask({ documents: [long], strategy: { long_documents: 'windows' } })
  expect(parts.usage.windows).toBeGreaterThan(5)
  expect(parts.results[0]?.window?.end).toBeLessThanOrEqual(long.length)
  const snippet = await ask({ documents: [long], strategy: { long_documents: 'snippet' } })
  expect(snippet.results[0]?.snippet).toBe(true)
  await expect(ask({ strategy: { exit: 'after:1' } })).rejects.toMatchObject({ details: { param: 'strategy.exit' } })
})
