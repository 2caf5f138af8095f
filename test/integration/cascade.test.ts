/** `strategy.cascade` over a real queue, with real workers. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { RankedDocument, RerankInput } from '../../producer/index.js'
import { copyOf, tinyModel } from '../fixtures/models/tiny-models.js'
import { useStage } from './stage.js'

const stage = useStage()
const [LARGE, NANO, MIDDLE] = [tinyModel('one-logit'), tinyModel('two-logit'), tinyModel('no-types')]
const served = { model: [LARGE, NANO, MIDDLE].join(',') }
const WORDS = ['job', 'queue', 'retry', 'model', 'score', 'document', 'redis', 'worker', 'fruit']
const DOCUMENTS = Array.from({ length: 40 }, (_, i) => `${WORDS[i % 9]} ${WORDS[(i * i) % 7]} ${i}`)
const request = { query: 'job queue', documents: DOCUMENTS }

const indexesOf = (rows: readonly RankedDocument[]) => rows.map(({ index }) => index)
const ask = (input: RerankInput) => stage().client().rerank(input)

describe('a cascade', () => {
  it('is what asking each model by itself for what it is shown gives', async () => {
    await stage().worker(served)
    const client = stage().client()
    const keep = fc.oneof(fc.integer({ min: 1, max: 14 }), fc.constantFrom(0.1, 0.5, 0.9))
    const stages = fc.array(fc.record({ model: fc.constantFrom(NANO, MIDDLE), keep }), { maxLength: 3 })
    const texts = fc.array(fc.array(fc.constantFrom(...WORDS), { minLength: 1, maxLength: 6 }), {
      minLength: 1,
      maxLength: 14,
    })
    const first = fc.option(fc.integer({ min: 1, max: 14 }), { nil: undefined })
    await fc.assert(
      fc.asyncProperty(texts, stages, first, async (words, cascade, prefiltered) => {
        const documents = words.map((one) => one.join(' '))
        const prefilter = prefiltered === undefined ? undefined : { keep: prefiltered }
        const { results, usage } = await client.rerank({
          query: 'job',
          documents,
          strategy: { cascade, ...(prefilter ? { prefilter } : {}) },
        })
        // Slowly: each model alone over all, then what is left of its order.
        const order = async (input: Partial<RerankInput>, among: readonly number[]) =>
          indexesOf((await client.rerank({ query: 'job', documents, ...input })).results).filter((i) =>
            among.includes(i),
          )
        let left: number[] = documents.map((_, i) => i)
        const behind: { index: number; by: string }[] = []
        const drop = (ranking: number[], count: number, by: string) => {
          behind.unshift(...ranking.slice(count).map((index) => ({ index, by })))
          left = ranking.slice(0, count)
        }
        if (prefiltered !== undefined && prefiltered < left.length)
          drop(await order({ strategy: { prefilter: { keep: 50 }, fuse: { weight: 0 } } }, left), prefiltered, 'bm25')
        const dropped = behind.length
        let seen = 0
        for (const { model, keep } of cascade) {
          const count = keep < 1 ? Math.ceil(left.length * keep - 1e-9) : keep
          if (count >= left.length) continue
          seen += left.length
          drop(await order({ model }, left), count, model)
        }
        const last = await order({ model: LARGE }, left)
        expect(indexesOf(results)).toEqual([...last, ...behind.map(({ index }) => index)])
        if (behind.length > 0) {
          const by = [...last.map(() => LARGE), ...behind.map(({ by }) => by)]
          expect(results.map(({ scored_by }) => scored_by)).toEqual(by)
        }
        const scores = results.map(({ relevance_score }) => relevance_score)
        for (let i = Math.max(1, last.length); i < scores.length; i++) expect(scores[i]).toBeLessThan(scores[i - 1]!)
        expect(usage).toMatchObject({ pairs: documents.length, prefiltered: dropped })
        expect(usage.cascaded ?? 0).toBe(behind.length - dropped)
        expect(usage.scored + usage.cached).toBe(seen + last.length)
      }),
      { numRuns: 25 },
    )
  })

  it('leaves the scores of those that the request’s model saw as they are, to the bit', async () => {
    await stage().worker({ ...served, scoreCacheTtlMs: 0 })
    const all = await ask(request)
    const some = await ask({ ...request, strategy: { cascade: [{ model: NANO, keep: 10 }] } })
    const kept = some.results.slice(0, 10)
    expect(kept).toEqual(all.results.filter(({ index }) => indexesOf(kept).includes(index)))
    expect(some.usage).toMatchObject({ pairs: 40, scored: 50, cached: 0, prefiltered: 0, cascaded: 30 })
    expect(some.usage.tokens).toBeGreaterThan(all.usage.tokens)
    expect(some.model).toBe(all.model)
  })

  it('that is empty, or keeps all, changes nothing', async () => {
    await stage().worker({ ...served, scoreCacheTtlMs: 0 })
    const off = await ask(request)
    for (const cascade of [
      [],
      [{ model: NANO, keep: 40 }],
      [
        { model: NANO, keep: 0.999 },
        { model: MIDDLE, keep: 40 },
      ],
    ]) {
      const on = await ask({ ...request, strategy: { cascade } })
      expect(on.results).toEqual(off.results)
      expect(on.usage).toEqual(off.usage)
    }
  })

  it('knows the scores of each model, and says of each row what its model read', async () => {
    await stage().worker({ ...served, maxTokens: 48 })
    const documents = [...DOCUMENTS, 'job queue '.repeat(60)]
    const strategy = { cascade: [{ model: NANO, keep: 10 }], long_documents: 'windows' as const }
    const first = await ask({ ...request, documents, strategy })
    expect(first.results.filter(({ window }) => window)).toHaveLength(41)
    expect(first.usage.windows).toBeGreaterThan(41)
    const again = await ask({ ...request, documents, strategy, topN: 20 })
    expect(again.usage).toMatchObject({ scored: 0, cached: 51, tokens: 0, cascaded: 31, windows: first.usage.windows })
    expect(again.results).toEqual(first.results.slice(0, 20))
  })

  it('is one job whatever a job may hold, of bounded size', async () => {
    await stage().worker(served)
    const strategy = { cascade: [{ model: NANO, keep: 10 }] }
    const whole = await ask({ ...request, strategy })
    const split = await stage()
      .client({ maxJobPairs: 7 })
      .rerank({ ...request, strategy, topN: 30 })
    expect(split.results).toEqual(whole.results.slice(0, 30))
    const refused = stage()
      .client({ maxPrefilterDocuments: 39 })
      .rerank({ ...request, strategy })
    await expect(refused).rejects.toMatchObject({ code: 'too_many_documents', message: /strategy\.cascade/ })
  })

  it('with a model that no worker serves is refused by the field that names it', async () => {
    await stage().worker({ ...served, unservedMs: 1000 })
    const cascade = [
      { model: NANO, keep: 10 },
      { model: '/etc/passwd', keep: 5 },
    ]
    await expect(ask({ ...request, strategy: { cascade } })).rejects.toMatchObject({
      code: 'unknown_model',
      details: { param: 'strategy.cascade' },
      message: expect.stringContaining('/etc/passwd'),
    })
  })

  it('fuses what the request’s model scored', async () => {
    await stage().worker(served)
    const strategy = {
      cascade: [{ model: NANO, keep: 10 }],
      prefilter: { keep: 20 },
      fuse: { weight: 0.5, by: 'score' as const },
    }
    const { results } = await ask({ ...request, strategy })
    const by = results.map(({ scored_by }) => scored_by)
    expect(by).toEqual([
      ...new Array(10).fill(`${LARGE}+bm25`),
      ...new Array(10).fill(NANO),
      ...new Array(20).fill('bm25'),
    ])
    // Means of z-scores: they add up to nothing.
    const sum = results.slice(0, 10).reduce((total, { relevance_score }) => total + relevance_score, 0)
    expect(sum).toBeCloseTo(0, 6)
    expect(indexesOf(results).sort((a, b) => a - b)).toEqual(DOCUMENTS.map((_, i) => i))
  })

  it('takes the weight that the model brings for the filter', async () => {
    const model = await copyOf('one-logit')
    const manifest = {
      name: 'with-weights',
      dtypes: { fp32: 'onnx/model.onnx' },
      fusion: { weights: { bm25: 0.25 } },
    }
    await writeFile(join(model, 'rankmill.json'), JSON.stringify(manifest))
    await stage().worker({ model })
    const fused = (fuse: 'learned' | { weight: number; by: 'score' }) =>
      ask({ ...request, strategy: { prefilter: { keep: 40 }, fuse } })
    const { results } = await fused('learned')
    expect(results).toEqual((await fused({ weight: 0.8, by: 'score' })).results)
    expect(results).not.toEqual((await fused({ weight: 0.5, by: 'score' })).results)
  })

  it('learned weights that a model does not bring are refused', async () => {
    await stage().worker()
    const refused = ask({ ...request, strategy: { prefilter: { keep: 5 }, fuse: 'learned' } })
    await expect(refused).rejects.toMatchObject({ code: 'invalid_request', details: { param: 'strategy.fuse' } })
  })
})
