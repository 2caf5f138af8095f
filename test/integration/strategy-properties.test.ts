/** Whatever strategies come together, on the models that ship: what the rules say, worked out slowly (slow-reranker.ts). */
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { RerankClient, RerankInput } from '../../producer/index.js'
import { shippedFolder } from '../../worker/model/model-reference.js'
import { temporaryFolder } from '../fixtures/models/tiny-models.js'
import { SlowReranker, type SlowResult } from './slow-reranker.js'
import { Stage } from './stage.js'

const [NANO, FILTER] = ['rankmill-nano', 'rankmill-filter']
const FILTERS = ['bm25', FILTER, `bm25+${FILTER}`, 'first-stage', `first-stage+${FILTER}`]
/** Of a pair: so that some of the documents are too long. */
const MAX_TOKENS = 48
/** fp32 and int8 logits alone and in company, and estimates, in the score after the sigmoid. */
const DIGITS = 3
const RUNS = 40

const QUERIES = ['how do I retry a failed job', 'redis memory policy', 'score documents in batches']
const DOCUMENTS = [
  'A failed job can be retried from the command line, or by itself after a delay.',
  'Redis must not evict keys: set the memory policy to noeviction.',
  'Apples, cherries and strawberries are red.',
  'Batches of documents are scored together, so that the model is kept busy.',
  'The queue holds jobs until a worker is free. Workers take the oldest job first. A job that fails is retried with a growing delay. After the last attempt it is kept among the failed ones. From there it can be tried again by hand.',
  'Retry: again, again and again.',
  'Memory is bounded by what the cache may hold.',
  'The weather in the mountains changes quickly in spring, and nobody retries a climb that failed.',
  'Scores are kept in Redis for a day. Identical pairs are scored once. The policy of the memory decides what is evicted, and for scores nothing else matters, since they can be found again by the model.',
  'A model gives each pair of query and document a score.',
  'Tokens of the document beyond the limit are not read.',
  'Job after job after job.',
  'Documents can be named by their ids. Then only the ids travel through the queue. Each worker reads the texts from the corpus, in batches. Compressed passages take a third of the memory. Redis holds them in hashes.',
  'Nothing to see here.',
]

const stages: Stage[] = []
let slow: SlowReranker
let [cached, uncached]: RerankClient[] = []
let small: string

/** The model that ships, with margins and lines of its exits whether it has some or not. */
async function withMargins(name: string): Promise<string> {
  const [from, to] = [join(shippedFolder(), name), join(await temporaryFolder(), name)]
  const manifest = JSON.parse(await readFile(join(from, 'rankmill.json'), 'utf8'))
  manifest.exits.forEach((exit: Record<string, unknown>, i: number) => {
    if (i === manifest.exits.length - 1) return
    exit['calibration'] = { scale: 1.1, offset: 0.1 * (i + 1) }
    exit['margins'] = { 0.9: 0.6 - 0.2 * i, 0.99: 1.5 - 0.5 * i }
  })
  manifest.fusion = { weights: Object.fromEntries(FILTERS.map((name, i) => [name, 0.25 + i])) }
  await mkdir(to)
  for (const file of await readdir(from))
    if (file !== 'rankmill.json') await symlink(resolve(from, file), join(to, file))
  await writeFile(join(to, 'rankmill.json'), JSON.stringify(manifest))
  return to
}

beforeAll(async () => {
  small = await withMargins('rankmill-small')
  const served = { model: `${small},${NANO}`, filter: FILTER, maxTokens: MAX_TOKENS, dtype: 'int8' } as const
  const off = { ...served, scoreCacheTtlMs: 0, tokenCacheTokens: 0, embeddingCacheBytes: 0 }
  stages.push(new Stage(), new Stage())
  const [one, other] = stages
  await one!.worker(served)
  await other!.worker(off)
  cached = one!.client()
  uncached = other!.client()
  slow = await SlowReranker.open({ small, nano: NANO, filter: FILTER }, one!.options(served))
})
afterAll(async () => {
  await slow?.close()
  for (const stage of stages) await stage.end()
})

const count = fc.integer({ min: 1, max: 9 })
const keep = fc.oneof(count, fc.constantFrom(0.1, 0.34, 0.5, 0.99), fc.constant('auto' as const))
const optional = <T>(arbitrary: fc.Arbitrary<T>, freq = 1) => fc.option(arbitrary, { nil: undefined, freq })
const strategies = fc
  .record({
    dtype: fc.constantFrom('int8' as const, 'fp32' as const),
    long_documents: fc.constantFrom('truncate' as const, 'windows' as const, 'snippet' as const),
    prefilter: optional(
      fc.record({ keep, model: fc.constantFrom(...FILTERS), by: fc.constantFrom('rank', 'score') }),
      2,
    ),
    cascade: fc.array(fc.record({ isOwn: fc.integer({ min: 0, max: 4 }), keep }), { maxLength: 2 }),
    fuse: fc.oneof(
      fc.constantFrom('none' as const, 'rrf' as const, 'learned' as const, { weight: 0.3 }),
      fc.constantFrom({ weight: 0.6, by: 'score' as const }, { weight: 'learned' as const }, 'none' as const),
    ),
    isOfOne: fc.boolean(),
    exit: fc.oneof(
      fc.constantFrom('never' as const, 'auto' as const, 'after:2' as const, 'after:4' as const, 'after:6' as const),
      fc.constantFrom({ confidence: 0.9 }, { confidence: 0.95 }),
    ),
  })
  .map(({ cascade, fuse, exit, prefilter, isOfOne, ...rest }) => {
    const several = prefilter?.model.split('+') ?? []
    const ofOne = typeof fuse === 'object' && isOfOne && several.length > 1
    const fused = prefilter === undefined ? 'none' : ofOne ? { ...fuse, of: several[0]! } : fuse
    // Fusion needs a rank of every candidate: refused with a confidence, and `auto` is then "never".
    const left = fused !== 'none' && (typeof exit === 'object' || exit === 'auto') ? 'never' : exit
    const stages = cascade.map(({ isOwn, keep }) => ({ isOwn: isOwn === 0, keep }))
    return { ...rest, ...(prefilter ? { prefilter } : {}), cascade: stages, fuse: fused, exit: left } as const
  })
/** Some alike: ties go by index. */
const firstStageScore = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -9, max: 30, noNaN: true }))
const requests = fc.record({
  query: fc.constantFrom(...QUERIES),
  documents: fc
    .shuffledSubarray(DOCUMENTS, { minLength: 3, maxLength: 10 })
    .chain((texts) => fc.tuple(...texts.map((text) => fc.record({ text: fc.constant(text), score: firstStageScore })))),
  topN: optional(count, 2),
  maxTokensPerDoc: optional(fc.constantFrom(3, 9, 25)),
  strategy: strategies,
})

function compare({ results, usage }: Awaited<ReturnType<RerankClient['rerank']>>, expected: SlowResult): void {
  expect(results.map(({ index, scored_by }) => [index, scored_by])).toEqual(
    expected.rows.map(({ index, by }) => [index, by]),
  )
  const scores = results.map(({ relevance_score }) => relevance_score)
  expected.rows.forEach(({ score, isEstimate }, i) => {
    const before = scores[i - 1] ?? Number.POSITIVE_INFINITY
    if (isEstimate) {
      expect(scores[i]).toBeLessThan(before)
      expect(scores[i]).toBeCloseTo(Math.min(score ?? 0, before), DIGITS)
    } else if (score !== null) expect(scores[i]).toBeCloseTo(score, DIGITS)
    else if (i > 0) expect(scores[i]).toBeLessThan(scores[i - 1]!)
  })
  const { pairs, prefiltered, cascaded = 0, exited_early, truncated, windows = expected.windows } = usage
  const { scored, ...rest } = expected.usage
  expect({ pairs, prefiltered, cascaded, exited_early, truncated }).toEqual(rest)
  expect(windows).toBe(expected.windows)
  expect(usage.scored + usage.cached).toBe(scored)
}

it('is what the rules say, with and without caches', async () => {
  let compared = 0
  await fc.assert(
    fc.asyncProperty(requests, async (request) => {
      const { strategy } = request
      const cascade = strategy.cascade.map(({ isOwn, keep }) => ({ model: isOwn ? small : NANO, keep }))
      const input: RerankInput = { ...request, strategy: { ...strategy, cascade } }
      const expected = await slow.rerank(input)
      // Where rounding decides, either order is right.
      if (!expected.isClear) return
      compared++
      const fresh = await uncached!.rerank(input)
      compare(fresh, expected)
      expect(fresh.usage.cached).toBe(0)
      const mayLeave = typeof strategy.exit === 'object' || strategy.exit === 'auto'
      // Who leaves depends on what is known already.
      if (mayLeave) return
      compare(await cached!.rerank(input), expected)
      const again = await cached!.rerank(input)
      compare(again, expected)
      expect(again.usage).toMatchObject({ scored: 0, tokens: 0 })
    }),
    { numRuns: RUNS },
  )
  expect(compared).toBeGreaterThan(RUNS / 2)
})

it('changes no bit where nothing is left out', async () => {
  const request = { query: QUERIES[0]!, documents: DOCUMENTS }
  const nothing: RerankInput['strategy'][] = [
    { prefilter: { keep: DOCUMENTS.length } },
    { prefilter: { keep: 1000, model: FILTER } },
    { prefilter: { keep: 'auto' } },
    { prefilter: { keep: 0.999 } },
    { exit: 'never' },
    { exit: 'auto' },
    { exit: 'after:6' },
    { cascade: [] },
    { cascade: [{ model: NANO, keep: DOCUMENTS.length }] },
    { cascade: [{ model: NANO }] },
    { cascade: [{ model: small, keep: 3 }] },
    { fuse: 'none' },
    { dtype: 'int8' },
  ]
  for (const client of [uncached!, cached!]) {
    const off = await client.rerank(request)
    expect(off.results.every(({ scored_by }) => scored_by === off.model)).toBe(true)
    for (const strategy of nothing) {
      const { results, usage } = await client.rerank({ ...request, strategy })
      expect(results).toEqual(off.results)
      const { scored, cached, tokens, ...rest } = usage
      expect(rest).toMatchObject({ pairs: DOCUMENTS.length, prefiltered: 0, exited_early: 0 })
      expect(scored + cached).toBe(DOCUMENTS.length)
    }
  }
})
