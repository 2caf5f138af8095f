import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { RerankJob, ScoredPart } from '../../../shared/protocol/job.js'
import { mergeParts, trimPart } from '../../../worker/pipeline/aggregate.js'

const usage = { pairs: 1, scored: 1, cached: 0, prefiltered: 0, exited_early: 0, tokens: 10, truncated: 1 }
const timings = { queued: 1, tokenize: 2, budget_wait: 0, batch_wait: 3, inference: 4, total: 0 }
const job = (topN: number | null, parts: number): RerankJob => ({
  v: 2,
  requestId: 'r',
  generation: 1,
  part: 0,
  parts,
  offset: 0,
  query: 'q',
  documents: [],
  model: 'm',
  topN,
  returnDocuments: false,
  maxTokensPerDoc: null,
  dtype: 'auto',
  longDocuments: 'truncate',
  exit: 'never',
  prefilter: null,
  cascade: [],
  fuse: null,
  priority: 0,
  submittedAt: 100,
  deadlineAt: null,
})
const part = (scores: number[], offset: number): ScoredPart => ({
  model: 'm',
  dtype: 'fp32',
  fingerprint: 'f',
  candidates: scores.map((score, i) => ({ index: offset + i, score, document: { id: `d${offset + i}`, text: 't' } })),
  usage,
  timings,
})

it('puts parts together as if there had been one, in whatever order they come', () => {
  const scores = fc.array(fc.constantFrom(0, 0.25, 0.5, 1), { minLength: 2, maxLength: 40 })
  fc.assert(
    fc.property(scores, fc.nat(), fc.option(fc.integer({ min: 1, max: 50 }), { nil: null }), (scores, cutAt, topN) => {
      const cut = 1 + (cutAt % (scores.length - 1))
      const whole = mergeParts(job(topN, 1), [trimPart(part(scores, 0), topN)], 200)
      const parts = [part(scores.slice(cut), cut), part(scores.slice(0, cut), 0)].map((p) => trimPart(p, topN))
      expect(mergeParts(job(topN, 2), parts, 200).results).toEqual(whole.results)
    }),
  )
})

it('orders by score, then by index, and cuts at topN', () => {
  const result = mergeParts(job(3, 1), [part([0.5, 0.9, 0.5, 0.1], 0)], 350)
  expect(result.results.map(({ index }) => index)).toEqual([1, 0, 2])
  expect(result.results.every(({ scored_by }) => scored_by === 'm')).toBe(true)
  expect(result.timings_ms.total).toBe(250)
})

it('adds usage up and takes the longest timings', () => {
  const result = mergeParts(
    job(null, 2),
    [part([1], 0), { ...part([2], 1), timings: { ...timings, inference: 9 } }],
    350,
  )
  expect(result.usage).toEqual({
    pairs: 2,
    scored: 2,
    cached: 0,
    prefiltered: 0,
    exited_early: 0,
    tokens: 20,
    truncated: 2,
  })
  expect(result.timings_ms).toEqual({ queued: 1, tokenize: 2, budget_wait: 0, batch_wait: 3, inference: 9, total: 250 })
})

it('orders scores that the sigmoid made equal by their logits, in one part and across parts', () => {
  const logits = [53.9, 72.6, 55.3, 80.2, 72.6]
  const saturated = (from: number, to: number): ScoredPart => ({
    ...part([], 0),
    candidates: logits.slice(from, to).map((logit, i) => ({
      index: from + i,
      score: 1 / (1 + Math.exp(-logit)),
      logit,
      document: { text: 't' },
    })),
  })
  const best = [3, 1, 4]
  const order = ({ results }: { results: readonly { index: number }[] }) => results.map(({ index }) => index)
  expect(order(mergeParts(job(3, 1), [trimPart(saturated(0, 5), 3)], 200))).toEqual(best)
  const parts = [trimPart(saturated(2, 5), 3), trimPart(saturated(0, 2), 3)]
  const merged = mergeParts(job(3, 2), parts, 200)
  expect(order(merged)).toEqual(best)
  expect(merged.results.map((row) => row.relevance_score)).toEqual([1, 1, 1])
  expect(merged.results[0]).not.toHaveProperty('logit')
})
