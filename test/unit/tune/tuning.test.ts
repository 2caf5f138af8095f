/** What is dropped, kept and recommended, with a client whose answers and times are known. */
import { afterEach, expect, it, vi } from 'vitest'
import type { Configuration } from '../../../producer/tune/configurations.js'
import type { TuningClient, TuningQuery } from '../../../producer/tune/trial.js'
import { type TuningOptions, tune } from '../../../producer/tune/tuning.js'
import type { RerankResult } from '../../../shared/protocol/result.js'

const IDS = Array.from({ length: 20 }, (_, i) => `d${i}`)
const QUERIES: TuningQuery[] = Array.from({ length: 24 }, (_, i) => ({
  query: `${i}`,
  documents: IDS.map((id) => ({ id, text: id })),
  grades: new Map([['d0', 1]]),
}))
const named = (name: string): Configuration => ({ name, fields: { model: name } })
const OPTIONS: TuningOptions = {
  within: 0.05,
  sure: 0.75,
  minQueries: 20,
  firstQueries: 6,
  maxMs: Number.POSITIVE_INFINITY,
  now: () => 0,
  signal: new AbortController().signal,
  onProgress: () => undefined,
}

afterEach(() => {
  vi.useRealTimers()
})

/** Puts the relevant document where `place` says for the query; counts what it is asked. */
function clientOf(place: (model: string, query: number) => number, asked: string[] = []): TuningClient {
  return answering((model, query) => {
    asked.push(model)
    const order = IDS.slice(1)
    order.splice(place(model, query), 0, 'd0')
    return order
  })
}

function answering(orderOf: (model: string, query: number) => string[]): TuningClient {
  return {
    rerank: async ({ model = '', query }) => {
      const results = orderOf(model, Number(query)).map((id, index) => ({ id, index, relevance_score: 0 }))
      const usage = { pairs: 20, scored: 20, cached: 0, prefiltered: 0, exited_early: 0, tokens: 1, truncated: 0 }
      return { results, usage } as unknown as RerankResult
    },
  }
}

/** On a clock that only its answers move. */
function takingTime(client: TuningClient, ms: (model: string) => number): TuningClient {
  return {
    rerank: (input, wait) => {
      vi.advanceTimersByTime(ms(input.model ?? ''))
      return client.rerank(input, wait)
    },
  }
}

it('drops by halves what is too bad, and shows the rest on all queries', async () => {
  const bad = Array.from({ length: 12 }, (_, i) => named(`bad-${i}`))
  const client = clientOf((model) => (model.startsWith('bad') ? 9 : 0))
  const { measured, dropped, recommended } = await tune(
    client,
    [named('full'), named('good'), ...bad],
    QUERIES,
    OPTIONS,
  )
  expect(measured.map(({ configuration }) => configuration.name).sort()).toEqual(['full', 'good'])
  expect(measured.every(({ queries, qualityShare }) => queries === 24 && qualityShare === 1)).toBe(true)
  expect(dropped).toHaveLength(12)
  expect(dropped.every(({ queries }) => queries === 6)).toBe(true)
  expect(['full', 'good']).toContain(recommended.configuration.name)
})

it('ends each round in time, with the same queries for all', async () => {
  const asked: string[] = []
  const client = clientOf(() => 0, asked)
  const ways = Array.from({ length: 9 }, (_, i) => named(`way-${i}`))
  // Each request takes a second of the 60.
  const now = () => asked.length * 1000
  const { measured, dropped } = await tune(client, ways, QUERIES, { ...OPTIONS, maxMs: 60_000, now })
  // What is begun when time is up is finished.
  expect(asked.length).toBeLessThan(60 + 9 + 1)
  const last = Math.max(...measured.map(({ queries }) => queries))
  expect(measured.every(({ queries }) => queries === last)).toBe(true)
  expect(last).toBeLessThan(24)
  expect(measured.length + dropped.length).toBe(9)
  for (const { queries } of [...measured, ...dropped]) expect(queries).toBeGreaterThan(0)
})

it('recommends nothing that keeps the quality in too few of the resamplings', async () => {
  // Better in most queries, and lost in some: 1.0 of the full quality, by luck.
  const place = (model: string, query: number) => (model === 'full' ? 1 : query % 3 === 0 ? 9 : 0)
  const run = (sure: number) => tune(clientOf(place), [named('full'), named('risky')], QUERIES, { ...OPTIONS, sure })
  const { measured } = await run(0)
  const risky = measured.find(({ configuration }) => configuration.name === 'risky')!
  expect(risky.qualityShare).toBeGreaterThan(1)
  expect(risky.confidence).toBeGreaterThan(0.5)
  expect(risky.confidence).toBeLessThan(1)
  expect((await run(1)).recommended.configuration.name).toBe('full')
})

it('recommends nothing of fewer queries than asked for, and names what was good on them', async () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const client = takingTime(
    clientOf(() => 0),
    (model) => (model === 'full' ? 100 : 50),
  )
  const run = (minQueries: number) =>
    tune(client, [named('full'), named('same')], QUERIES.slice(0, 8), { ...OPTIONS, minQueries })
  const few = await run(9)
  expect(few.recommended.configuration.name).toBe('full')
  expect(few.probable?.configuration.name).toBe('same')
  const enough = await run(8)
  expect(enough.recommended).toMatchObject({ configuration: { name: 'same' }, queries: 8, speedup: 2 })
  expect(enough.probable).toBeUndefined()
})

it('still has what is slow and close to the full order when what was fast turns out to have been lucky', async () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const shuffled = [...IDS.slice(10), ...IDS.slice(1, 10)]
  const lucky = Array.from({ length: 24 }, (_, i) => named(`lucky-${i}`))
  const follows = (model: string) => model === 'full' || model === 'close'
  const client = takingTime(
    answering((model, query) => {
      if (follows(model)) return IDS
      return query < 6 ? ['d0', ...shuffled] : [...shuffled, 'd0']
    }),
    (model) => (model === 'full' ? 100 : model === 'close' ? 50 : 1),
  )
  const { recommended, dropped } = await tune(client, [named('full'), named('close'), ...lucky], QUERIES, OPTIONS)
  expect(recommended).toMatchObject({ configuration: { name: 'close' }, queries: 24, overlap: 1, speedup: 2 })
  expect(dropped.length).toBeGreaterThan(20)
})

it('never drops for a likelier one what it would recommend', async () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const full = ['d1', 'd0', ...IDS.slice(2)]
  const steady = [...full.slice(0, 9), 'd10', 'd9', ...IDS.slice(11)]
  const times: Record<string, number> = { full: 100, steady: 70, 'risky-0': 33, 'risky-1': 34 }
  const client = takingTime(
    answering((model, query) => {
      if (model === 'full') return full
      if (model === 'steady') return steady
      return query % 3 === 0 ? [...IDS.slice(1), 'd0'] : IDS
    }),
    (model) => times[model] ?? 0,
  )
  const ways = Object.keys(times).map(named)
  const { recommended, probable } = await tune(client, ways, QUERIES, { ...OPTIONS, sure: 0.95, minQueries: 6 })
  expect(recommended).toMatchObject({ configuration: { name: 'steady' }, queries: 24, qualityShare: 1 })
  expect(probable).toBeUndefined()
})

it('counts what is skipped of the candidates that the queries have, be they of one number or not', async () => {
  const lists = QUERIES.map((query, i) => ({ ...query, documents: query.documents.slice(0, i === 0 ? 2 : 20) }))
  const client: TuningClient = {
    rerank: async ({ documents }) => {
      const given = documents as unknown as { id: string }[]
      const results = given.map(({ id }, index) => ({ id, index, relevance_score: 0 }))
      const usage = { pairs: given.length, prefiltered: given.length - 1, exited_early: 0, tokens: 1 }
      return { results, usage } as unknown as RerankResult
    },
  }
  const { measured } = await tune(client, [named('full')], lists, OPTIONS)
  expect(measured[0]?.skipped).toBeCloseTo((1 + 23 * 19) / (2 + 23 * 20))
})
