import { Command } from 'commander'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { addStrategyFlags, flagsOf, strategyOf } from '../../../cli/strategy-flags.js'
import { type Choices, configurationsOf } from '../../../producer/tune/configurations.js'
import { resolveOptions } from '../../../shared/options.js'
import { parseRequest, requestSchema } from '../../../shared/protocol/request.js'

const CHOICES: Choices = {
  models: ['rankmill-small', 'rankmill-nano'],
  dtypes: ['fp32', 'int8'],
  filters: ['rankmill-filter'],
  hasFirstStage: false,
  learned: { 'rankmill-small': ['bm25'], 'rankmill-nano': ['bm25', 'bm25+rankmill-filter'] },
  exits: ['after:2', { confidence: 0.9 }],
  depth: 100,
  longTokens: 200,
  most: 80,
}
const SCHEMA = requestSchema(resolveOptions({}, {}))
const documents = Array.from({ length: 100 }, (_, i) => ({ text: `document ${i}`, score: i }))

it('has each way alone, then many together, all of them once', () => {
  const names = configurationsOf(CHOICES).map(({ name }) => name)
  expect(names).toHaveLength(80)
  expect(new Set(names).size).toBe(80)
  expect(names[0]).toBe('rankmill-small, fp32')
  expect(names).toEqual(
    expect.arrayContaining([
      'rankmill-nano, int8',
      'rankmill-small, fp32, first 128 tokens',
      'rankmill-small, fp32, best 30 by rankmill-filter',
      'rankmill-small, fp32, best 30 by rankmill-nano',
      'rankmill-small, fp32, exit 0.9',
      'rankmill-small, fp32, best 50 by bm25, fused learned',
      'rankmill-nano, int8, best 50 by scores of bm25+rankmill-filter, fused learned',
      'rankmill-nano, int8, best 50 by rankmill-filter, fused 0.7',
      'rankmill-small, int8, best 10 by bm25',
    ]),
  )
  const parts = names.map((name) => name.split(', ').length)
  expect(Math.max(...parts)).toBeGreaterThanOrEqual(5)
  expect(configurationsOf(CHOICES).map(({ name }) => name)).toEqual(names)
})

it('looks at the first stage’s scores where there are some, instead of counting words', () => {
  const sieves = configurationsOf({ ...CHOICES, hasFirstStage: true }).flatMap(
    ({ fields }) => fields.strategy?.prefilter?.model ?? [],
  )
  expect(new Set(sieves)).toEqual(new Set(['first-stage', 'rankmill-filter', 'first-stage+rankmill-filter']))
})

it('gives requests that are accepted, and flags that say the same', () => {
  const depths = fc.integer({ min: 2, max: 100 })
  fc.assert(
    fc.property(depths, fc.boolean(), fc.integer({ min: 1, max: 300 }), (depth, few, longTokens) => {
      const choices = {
        ...CHOICES,
        depth,
        longTokens,
        most: 60,
        ...(few ? { filters: [], exits: [], learned: {} } : { hasFirstStage: true }),
      }
      for (const { fields } of configurationsOf(choices)) {
        const request = parseRequest({ query: 'q', documents, ...fields }, SCHEMA, () => 'id')
        expect(request.topN).toBe(fields.topN ?? null)
        const keeps = [fields.strategy?.prefilter?.keep, fields.strategy?.cascade?.[0]?.keep]
        for (const keep of keeps) if (typeof keep === 'number') expect(keep).toBeLessThan(depth)
        const command = addStrategyFlags(new Command()).allowUnknownOption().allowExcessArguments()
        command.parse(flagsOf(fields).split(' '), { from: 'user' })
        const { dtype: _, ...strategy } = fields.strategy ?? {}
        expect(strategyOf(command.opts()) ?? {}).toEqual(strategy)
        expect(command.opts().maxTokensPerDoc).toBe(fields.maxTokensPerDoc)
      }
    }),
    { numRuns: 12 },
  )
})
