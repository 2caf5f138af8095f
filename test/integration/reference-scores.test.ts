/** Scores through the whole system are those of sentence-transformers' CrossEncoder on the same folder. */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { useStage } from './stage.js'

interface Golden {
  readonly queries: string[]
  readonly passages: string[]
  readonly long_passage: { words: number }
  /** By query, then passage; the long passage last. */
  readonly scores: number[][]
}

const stage = useStage()
const golden = JSON.parse(readFileSync('test/golden/cross-encoder-scores.json', 'utf8')) as Golden
const long = Array.from({ length: golden.long_passage.words }, (_, i) => `word${i % 97} of a very long passage`).join(
  ' ',
)
const documents = [...golden.passages, long]

async function scoresOf(strategy: { dtype: 'fp32' | 'int8' }): Promise<number[][]> {
  const client = stage().client({ model: 'rankmill-small', maxJobPairs: 4 })
  const rows: number[][] = golden.queries.map(() => [])
  const requests = golden.queries.map((query) => ({ query, documents, strategy }))
  for await (const { position, result, error } of client.rerankAll(requests)) {
    if (error) throw error
    expect(result.usage.truncated).toBe(1)
    for (const { index, relevance_score } of result.results) rows[position]![index] = relevance_score
  }
  return rows
}

function furthest(a: number[][], b: number[][]): number {
  return Math.max(...a.flatMap((row, q) => row.map((score, p) => Math.abs(score - b[q]![p]!))))
}

const shapes = [
  { batchPairs: 1, sessions: 1, threads: 1 },
  { batchPairs: 16, sessions: 2, threads: 2 },
]

describe('rankmill-small', () => {
  it('in fp32 gives the reference scores to 1e-4, whatever the batches and the number of workers', async () => {
    const shared = { model: 'rankmill-small', scoreCacheTtlMs: 0 }
    await stage().worker({ ...shared, ...shapes[0] })
    const alone = await scoresOf({ dtype: 'fp32' })
    expect(furthest(alone, golden.scores)).toBeLessThan(1e-4)
    await stage().worker({ ...shared, ...shapes[1] })
    expect(furthest(await scoresOf({ dtype: 'fp32' }), golden.scores)).toBeLessThan(1e-4)
  })

  it('in int8 gives the same scores in any batch', async () => {
    const shared = { model: 'rankmill-small', scoreCacheTtlMs: 0 }
    await stage().worker({ ...shared, ...shapes[0] })
    const alone = await scoresOf({ dtype: 'int8' })
    await stage().worker({ ...shared, ...shapes[1] })
    expect(furthest(await scoresOf({ dtype: 'int8' }), alone)).toBeLessThan(1e-4)
    expect(furthest(alone, golden.scores)).toBeLessThan(0.15)
  })
})
