/** `strategy.long_documents` over a real queue, with real workers. */
import { describe, expect, it } from 'vitest'
import { type Stage, useStage } from './stage.js'

const stage = useStage()
/** Words that are one token each, so that a window's characters give exactly its tokens again. */
const FILLER = 'The failed document redis model. '
/** The one long document, too long for the 64 tokens of a pair that the worker is given, and two short ones. */
const LONG = `${FILLER.repeat(24)}How the worker retry job queue. ${FILLER.repeat(24)}`
const DOCUMENTS = [LONG, 'a queue of jobs', FILLER]
const ask = (on: Stage, long_documents: 'truncate' | 'windows' | 'snippet', more: object = {}) =>
  on.client().rerank({ query: 'job queue', documents: DOCUMENTS, strategy: { long_documents }, ...more })

describe('windows', () => {
  it('score a document by its best window, which is what that text would score alone', async () => {
    await stage().worker({ maxTokens: 64, windowOverlapPercent: 0 })
    const result = await ask(stage(), 'windows')
    expect(result.usage).toMatchObject({ pairs: 3, scored: 3, truncated: 0 })
    expect(result.usage.windows).toBeGreaterThan(5)
    const best = result.results.find(({ index }) => index === 0)!
    expect(best.window!.end - best.window!.start).toBeLessThan(LONG.length / 3)
    const alone = await stage()
      .client()
      .rerank({ query: 'job queue', documents: [LONG.slice(best.window!.start, best.window!.end)] })
    expect(alone.results[0]!.relevance_score).toBeCloseTo(best.relevance_score, 5)
    for (const row of result.results) {
      if (row.index !== 0) expect(row.window).toEqual({ index: 0, start: 0, end: DOCUMENTS[row.index]!.length })
    }
  })

  it('come out of the score cache as they went in, and never as another mode or rule left them', async () => {
    const worker = await stage().worker({ maxTokens: 64 })
    const first = await ask(stage(), 'windows')
    const again = await ask(stage(), 'windows')
    expect(again.usage).toMatchObject({ cached: 3, scored: 0, windows: first.usage.windows })
    expect(again.results).toEqual(first.results)
    expect((await ask(stage(), 'truncate')).usage.cached).toBe(0)
    expect((await ask(stage(), 'snippet')).usage.cached).toBe(0)
    await worker.close()
    await stage().worker({ maxTokens: 64, maxWindows: 2 })
    const fewer = await ask(stage(), 'windows')
    expect(fewer.usage).toMatchObject({ cached: 0, truncated: 1, windows: 4 })
  })

  it('count what max_tokens_per_doc leaves out', async () => {
    await stage().worker({ maxTokens: 64 })
    const result = await ask(stage(), 'windows', { maxTokensPerDoc: 100 })
    expect(result.usage.truncated).toBe(1)
    expect(result.usage.windows).toBe(4)
  })

  it('give the same when a request is split', async () => {
    await stage().worker({ maxTokens: 64, scoreCacheTtlMs: 0 })
    const whole = await ask(stage(), 'windows')
    const split = await stage()
      .client({ maxJobPairs: 1 })
      .rerank({ query: 'job queue', documents: DOCUMENTS, strategy: { long_documents: 'windows' } })
    expect(split.results).toEqual(whole.results)
    expect(split.usage).toEqual(whole.usage)
  })
})

describe('snippet', () => {
  it('reads the sentences about the query, says so, and counts the rest as truncated', async () => {
    await stage().worker({ maxTokens: 64 })
    const result = await ask(stage(), 'snippet')
    expect(result.usage).toMatchObject({ pairs: 3, scored: 3, truncated: 1 })
    expect(result.results.filter(({ snippet }) => snippet).map(({ index }) => index)).toEqual([0])
    const cut = await ask(stage(), 'truncate')
    const scoreOf = ({ results }: typeof result) => results.find(({ index }) => index === 0)!.relevance_score
    expect(scoreOf(result)).not.toBe(scoreOf(cut))
    const again = await ask(stage(), 'snippet')
    expect(again.usage).toMatchObject({ cached: 3, truncated: 1 })
    expect(again.results).toEqual(result.results)
  })
})
