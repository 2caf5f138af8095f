/** `strategy.exit` over a real queue, with a real model in three stages. */
import { describe, expect, it } from 'vitest'
import type { RerankResult } from '../../shared/protocol/result.js'
import { tinyModel } from '../fixtures/models/tiny-models.js'
import { useStage } from './stage.js'

const stage = useStage()
const model = tinyModel('staged')
const WORDS = 'retry failed job queue model score document what is in redis worker how do'.split(' ')
/** Of different lengths, and no two alike. */
const DOCUMENTS = Array.from({ length: 80 }, (_, i) =>
  Array.from({ length: 2 + ((i * 7) % 23) }, (_, n) => WORDS[(i * 5 + n * (1 + (i % 11))) % WORDS.length]).join(' '),
)
const request = { query: 'retry failed job', documents: DOCUMENTS }
const scoresOf = (results: readonly { index: number; relevance_score: number }[]) =>
  results.map(({ index, relevance_score }) => [index, relevance_score])

describe('a model with exits', () => {
  it('gives the same bits with exit "never", with "auto" but without top_n, and without a word of it', async () => {
    await stage().worker({ model, scoreCacheTtlMs: 0 })
    const client = stage().client()
    const off = await client.rerank(request)
    expect(off.usage.exited_early).toBe(0)
    for (const exit of ['never', 'auto', 'after:3'] as const) {
      const same = await client.rerank({ ...request, strategy: { exit } })
      expect(same.results).toEqual(off.results)
      expect(same.usage).toEqual(off.usage)
    }
  })

  it('stops after a layer: every row says so, and such a score is never read as a final one', async () => {
    const worker = await stage().worker({ model })
    const client = stage().client()
    const early = await client.rerank({ ...request, strategy: { exit: 'after:1' } })
    expect(early.usage).toMatchObject({ pairs: 80, scored: 80, cached: 0, exited_early: 80 })
    expect(new Set(early.results.map(({ scored_by }) => scored_by))).toEqual(new Set([`${early.model}@layer1`]))
    const again = await client.rerank({ ...request, strategy: { exit: 'after:1' } })
    expect(again.results).toEqual(early.results)
    expect(again.usage).toMatchObject({ scored: 0, cached: 80, exited_early: 80 })
    const full = await client.rerank(request)
    expect(full.usage).toMatchObject({ scored: 80, cached: 0, exited_early: 0 })
    expect(scoresOf(full.results)).not.toEqual(scoresOf(early.results))
    // Estimates on the scale of final scores.
    const byIndex = new Map(full.results.map((row) => [row.index, row.relevance_score]))
    for (const { index, relevance_score } of early.results)
      expect(Math.abs(relevance_score - byIndex.get(index)!)).toBeLessThan(0.2)
    const { values } = await worker.metrics.pairs.get()
    expect(values.find(({ labels }) => labels.source === 'exit')?.value).toBe(80)
  })

  it('lets leave who cannot reach the first ten; these have the scores of the whole model', async () => {
    await stage().worker({ model, scoreCacheTtlMs: 0 })
    const client = stage().client()
    const full = await client.rerank({ ...request, topN: 10 })
    for (const exit of ['auto', { confidence: 0.9 }] as const) {
      const some = await client.rerank({ ...request, topN: 10, strategy: { exit } })
      expect(some.usage.exited_early).toBeGreaterThan(10)
      expect(some.usage).toMatchObject({ pairs: 80, scored: 80, cached: 0 })
      expect(some.results.map(({ index }) => index)).toEqual(full.results.map(({ index }) => index))
      some.results.forEach((row, i) => {
        expect(row.scored_by).toBe(full.model)
        expect(row.relevance_score).toBeCloseTo(full.results[i]!.relevance_score, 5)
      })
    }
  })

  it('does so for jobs side by side, split requests and windows, with what each gets alone', async () => {
    await stage().worker({ model, scoreCacheTtlMs: 0 })
    const client = stage().client()
    const strategy = { exit: 'auto', long_documents: 'windows' } as const
    const long = DOCUMENTS.map((text, i) => (i % 9 === 0 ? `${text} `.repeat(12) : text))
    const requests = ['redis queue', 'what is a job', 'score the document'].map((query) => ({ query, topN: 5 }))
    const alone: RerankResult[] = []
    for (const each of requests) alone.push(await client.rerank({ ...each, documents: long, strategy }))
    const together = await Promise.all(requests.map((each) => client.rerank({ ...each, documents: long, strategy })))
    const split = stage().client({ maxJobPairs: 30 })
    const parts = await Promise.all(requests.map((each) => split.rerank({ ...each, documents: long, strategy })))
    alone.forEach(({ results, usage }, i) => {
      expect(usage.exited_early).toBeGreaterThan(0)
      expect(together[i]!.usage.exited_early).toBe(usage.exited_early)
      for (const other of [together[i]!, parts[i]!]) {
        expect(other.results.map(({ index, window }) => [index, window])).toEqual(
          results.map(({ index, window }) => [index, window]),
        )
      }
    })
  })

  it('scores those that left when a later request wants them', async () => {
    await stage().worker({ model })
    const client = stage().client()
    const some = await client.rerank({ ...request, topN: 5, strategy: { exit: 'auto' } })
    const full = await client.rerank(request)
    expect(full.usage).toMatchObject({ scored: some.usage.exited_early, cached: 80 - some.usage.exited_early })
    expect(full.results.slice(0, 5).map(({ index }) => index)).toEqual(some.results.map(({ index }) => index))
  })
})

it('refuses an exit that the model does not have, and a confidence together with fusion', async () => {
  await stage().worker({ model })
  const client = stage().client()
  await expect(client.rerank({ ...request, strategy: { exit: 'after:7' } })).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining('has exits after layers 1, 2, 3; got 7'),
  })
  const strategy = { exit: { confidence: 0.9 }, prefilter: {}, fuse: 'rrf' } as const
  await expect(client.rerank({ ...request, topN: 3, strategy })).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining('strategy.exit: a confidence cannot go with strategy.fuse'),
  })
})
