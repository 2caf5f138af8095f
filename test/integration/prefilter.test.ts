/** `strategy.prefilter` over a real queue, with real workers. */
import { describe, expect, it } from 'vitest'
import { tinyModel } from '../fixtures/models/tiny-models.js'
import { useStage } from './stage.js'

const stage = useStage()
const DOCUMENTS = Array.from(
  { length: 60 },
  (_, i) => `document ${i} ${i % 3 === 0 ? 'about the job queue' : 'of fruit'}`,
)
const request = { query: 'job queue', documents: DOCUMENTS }
const bm25 = (keep: number | 'auto') => ({ prefilter: { keep, model: 'bm25' } })

describe('a lexical prefilter', () => {
  it('leaves only the best to the model, whose scores are the same; the rest follows in its order', async () => {
    const worker = await stage().worker({ scoreCacheTtlMs: 0 })
    const client = stage().client()
    const all = await client.rerank(request)
    const some = await client.rerank({ ...request, strategy: bm25(25) })
    expect(some.usage).toMatchObject({ pairs: 60, scored: 25, cached: 0, prefiltered: 35 })
    const scored = some.results.slice(0, 25)
    expect(new Set(scored.map(({ scored_by }) => scored_by))).toEqual(new Set([some.model]))
    const kept = new Set(scored.map(({ index }) => index))
    // The 20 that have the query's words, and the first five of those that are all alike.
    const others = DOCUMENTS.flatMap((_, i) => (i % 3 === 0 ? [] : [i]))
    for (let i = 0; i < 60; i++) expect(kept.has(i)).toBe(i % 3 === 0 || others.indexOf(i) < 5)
    expect(scored).toEqual(all.results.filter(({ index }) => kept.has(index)))
    const rest = some.results.slice(25)
    for (const row of rest) expect(row.scored_by).toBe('bm25')
    const indexes = rest.map(({ index }) => index)
    expect(indexes).toEqual([...indexes].sort((a, b) => a - b))
    const scores = some.results.map(({ relevance_score }) => relevance_score)
    for (const [i, score] of scores.slice(1).entries()) expect(score).toBeLessThanOrEqual(scores[i]!)
    expect(Math.max(...scores.slice(25))).toBeLessThan(Math.min(...scores.slice(0, 25)))
    const { values } = await worker.metrics.pairs.get()
    expect(values.find(({ labels }) => labels.source === 'prefilter')?.value).toBe(35)
  })

  it('that keeps all changes nothing', async () => {
    await stage().worker({ scoreCacheTtlMs: 0 })
    const client = stage().client()
    const off = await client.rerank({ ...request, returnDocuments: true })
    for (const keep of [60, 1000, 0.999] as const) {
      const on = await client.rerank({ ...request, returnDocuments: true, strategy: bm25(keep) })
      expect(on.results).toEqual(off.results)
      expect(on.usage).toEqual(off.usage)
    }
  })

  it('sees all candidates of a request, whatever a job may hold', async () => {
    await stage().worker()
    const whole = await stage()
      .client()
      .rerank({ ...request, strategy: bm25(10) })
    const split = await stage()
      .client({ maxJobPairs: 7 })
      .rerank({ ...request, strategy: bm25(10), topN: 30 })
    expect(split.results).toEqual(whole.results.slice(0, 30))
    const refused = stage()
      .client({ maxPrefilterDocuments: 59 })
      .rerank({ ...request, strategy: bm25(10) })
    await expect(refused).rejects.toMatchObject({ code: 'too_many_documents', details: { param: 'documents' } })
  })

  it('goes together with the other strategies', async () => {
    await stage().worker({ maxTokens: 64 })
    const documents = [...DOCUMENTS, `${'fruit '.repeat(100)} job queue job queue job queue`]
    const result = await stage()
      .client()
      .rerank({ ...request, documents, strategy: { ...bm25(30), long_documents: 'windows' } })
    expect(result.usage).toMatchObject({ pairs: 61, scored: 30, prefiltered: 31 })
    expect(result.results.filter(({ window }) => window)).toHaveLength(30)
  })

  it('that no worker serves is refused by its name', async () => {
    await stage().worker({ unservedMs: 1000 })
    const unknown = stage()
      .client({ unservedMs: 1000 })
      .rerank({ ...request, strategy: { prefilter: { keep: 3, model: '/etc/passwd' } } })
    await expect(unknown).rejects.toMatchObject({
      code: 'unknown_model',
      details: { param: 'strategy.prefilter.model' },
    })
  })
})

describe('the first stage as a prefilter', () => {
  const scored = DOCUMENTS.map((text, i) => ({ text, score: (i * 7) % 60 }))
  const best = scored.map((_, i) => i).sort((a, b) => scored[b]!.score - scored[a]!.score)
  const strategy = { prefilter: { keep: 5, model: 'first-stage' } }

  it('leaves those with its highest scores to the model, and the rest in its order', async () => {
    await stage().worker()
    const client = stage().client()
    const { results } = await client.rerank({ ...request, documents: scored, strategy })
    expect(results.slice(0, 5).map(({ index }) => index)).toEqual(expect.arrayContaining(best.slice(0, 5)))
    expect(results.slice(5).map(({ index }) => index)).toEqual(best.slice(5))
    expect(results.slice(5).every(({ scored_by }) => scored_by === 'first-stage')).toBe(true)
    await client.putCorpus(
      'c',
      DOCUMENTS.map((text, i) => ({ id: String(i), text })),
    )
    const documents = { corpus: 'c', ids: DOCUMENTS.map((_, i) => String(i)), scores: scored.map(({ score }) => score) }
    const named = await client.rerank({ ...request, documents, strategy })
    expect(named.results.map(({ id: _, ...row }) => row)).toEqual(results)
  })

  it('comes into the final order where fusion asks for it', async () => {
    await stage().worker()
    const fused = { prefilter: { keep: 60, model: 'first-stage' }, fuse: { weight: 0, by: 'score' } } as const
    const { results } = await stage()
      .client()
      .rerank({ ...request, documents: scored, strategy: fused })
    expect(results.map(({ index }) => index)).toEqual(best)
  })

  it('comes there alone where it chose together with another', async () => {
    await stage().worker()
    const prefilter = { keep: 30, model: 'bm25+first-stage', by: 'score' } as const
    const ask = (fuse: object) =>
      stage()
        .client()
        .rerank({ ...request, documents: scored, strategy: { prefilter, fuse: fuse as { weight: number } } })
    const { results, model } = await ask({ weight: 0, by: 'score', of: 'first-stage' })
    const kept = results.slice(0, 30)
    expect(kept.map(({ index }) => index)).toEqual(best.filter((index) => kept.some((row) => row.index === index)))
    expect(new Set(kept.map(({ scored_by }) => scored_by))).toEqual(new Set([`${model}+first-stage`]))
    expect(new Set(results.slice(30).map(({ scored_by }) => scored_by))).toEqual(new Set(['bm25+first-stage']))
    const together = await ask({ weight: 0, by: 'score' })
    expect(new Set(together.results.slice(0, 30).map(({ index }) => index))).toEqual(
      new Set(kept.map(({ index }) => index)),
    )
    expect(together.results.slice(0, 30)).not.toEqual(kept)
  })
})

describe('fusion', () => {
  const rowsOf = async (strategy: object) =>
    (
      await stage()
        .client()
        .rerank({ ...request, strategy })
    ).results

  it('orders by both ranks, as the formula says', async () => {
    await stage().worker()
    const byModel = (await rowsOf({})).map(({ index }) => index)
    // The filter's order alone: those with the query's words first.
    const byFilter = (await rowsOf({ prefilter: { keep: 60 }, fuse: { weight: 0 } })).map(({ index }) => index)
    expect(new Set(byFilter.slice(0, 20))).toEqual(new Set(DOCUMENTS.flatMap((_, i) => (i % 3 === 0 ? [i] : []))))
    const fused = await rowsOf({ prefilter: { keep: 60 }, fuse: { weight: 0.3 } })
    const expected = DOCUMENTS.map((_, index) => ({
      index,
      score: 61 * (0.3 / (61 + byModel.indexOf(index)) + 0.7 / (61 + byFilter.indexOf(index))),
    })).sort((a, b) => b.score - a.score || a.index - b.index)
    for (const [i, { relevance_score, scored_by }] of fused.entries()) {
      expect(relevance_score).toBeCloseTo(expected[i]!.score, 10)
      expect(scored_by).toMatch(/\+bm25$/)
    }
    const all = await rowsOf({ prefilter: { keep: 60 }, fuse: { weight: 1 } })
    expect(all.map(({ index }) => index)).toEqual(byModel)
  })

  it('leaves those that the filter left out behind', async () => {
    await stage().worker()
    const rows = await rowsOf({ prefilter: { keep: 10 }, fuse: 'rrf' })
    expect(rows.slice(10).every(({ scored_by }) => scored_by === 'bm25')).toBe(true)
    const scores = rows.map(({ relevance_score }) => relevance_score)
    expect(scores).toEqual([...scores].sort((a, b) => b - a))
    expect(scores[10]).toBeLessThan(scores[9]!)
  })
})

describe('a bi-encoder as prefilter', () => {
  const filter = tinyModel('bi-encoder')

  it('chooses what the model scores, and orders the rest', async () => {
    await stage().worker({ scoreCacheTtlMs: 0, filter })
    const client = stage().client()
    const all = await client.rerank(request)
    const some = await client.rerank({ ...request, strategy: { prefilter: { keep: 0.5, model: filter } } })
    expect(some.usage).toMatchObject({ pairs: 60, scored: 30, prefiltered: 30 })
    const kept = some.results.slice(0, 30)
    expect(kept).toEqual(all.results.filter(({ index }) => kept.some((row) => row.index === index)))
    for (const row of some.results.slice(30)) expect(row.scored_by).toBe(filter)
    const again = await client.rerank({ ...request, strategy: { prefilter: { keep: 20, model: filter } } })
    // The best 20 of its order, then the next ten, then the same rest.
    expect(again.results.slice(-30).map(({ index }) => index)).toEqual(some.results.slice(30).map(({ index }) => index))
  })

  it('goes together with bm25, both ranks counting the same', async () => {
    await stage().worker({ filter })
    const client = stage().client()
    const orderOf = async (model: string) => {
      const strategy = { prefilter: { keep: 60, model }, fuse: { weight: 0 } } as const
      return (await client.rerank({ ...request, strategy })).results.map(({ index }) => index)
    }
    const [lexical, dense, both] = [await orderOf('bm25'), await orderOf(filter), await orderOf(`bm25+${filter}`)]
    const worth = (index: number) => (61 / (61 + lexical.indexOf(index)) + 61 / (61 + dense.indexOf(index))) / 2
    const expected = DOCUMENTS.map((_, index) => index).sort((a, b) => worth(b) - worth(a) || a - b)
    expect(both).toEqual(expected)
    expect(both).not.toEqual(lexical)
    const some = await client.rerank({ ...request, strategy: { prefilter: { keep: 5, model: `bm25+${filter}` } } })
    expect(some.results.slice(5).map(({ index, scored_by }) => [index, scored_by])).toEqual(
      expected.slice(5).map((index) => [index, `bm25+${filter}`]),
    )
    const twice = client.rerank({ ...request, strategy: { prefilter: { keep: 5, model: 'bm25+bm25' } } })
    await expect(twice).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('is opened when it is first named, and refused where it cannot be', async () => {
    await stage().worker({ filter: `${filter},no-such-filter` })
    const ask = (model: string) =>
      stage()
        .client()
        .rerank({ ...request, strategy: { prefilter: { keep: 5, model } } })
    await expect(ask('no-such-filter')).rejects.toMatchObject({ code: 'unknown_model' })
    expect((await ask(filter)).usage.prefiltered).toBe(55)
  })
})
