import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { scoreByStages } from '../../../worker/pipeline/early-exit.js'
import type { EncodedDocument } from '../../../worker/pipeline/encode-documents.js'
import { type ExitPlan, planExit } from '../../../worker/pipeline/exit-plan.js'

/** A document of so many pairs of three tokens, whose score is its best pair's. */
function documentOf(pairs: number): EncodedDocument {
  const pair = { ids: Int32Array.of(1, 2, 3), secondStart: 1, truncated: false }
  return {
    pairs: Array.from({ length: pairs }, () => pair),
    score: (logits) => ({ logit: Math.max(...logits), truncated: false }),
  }
}

/** Logits of each document's pairs after each stage: [documents][stages][pairs]. */
type Table = readonly (readonly (readonly number[])[])[]

const exitsOf = (calibrations: readonly { scale: number; offset: number }[]) => [
  ...calibrations.map((calibration, i) => ({ layer: i + 1, calibration })),
  { layer: calibrations.length + 1, calibration: { scale: 1, offset: 0 } },
]

/** Runs the code over a table, and counts the pairs that each stage was given. */
async function run(
  plan: Exclude<ExitPlan, { kind: 'never' }>,
  exits: ReturnType<typeof exitsOf>,
  table: Table,
  known: number[],
  blockTokens: number,
) {
  const ran: number[] = exits.map(() => 0)
  const documents = table.map((stages) => documentOf(stages[0]!.length))
  const result = await scoreByStages(
    plan,
    exits,
    documents,
    known,
    async (pairs, owners, stage, states) => {
      ran[stage]! += pairs.length
      const seen = new Map<number, number>()
      const numbered = owners.map((owner) => {
        seen.set(owner, (seen.get(owner) ?? -1) + 1)
        return [owner, seen.get(owner)!] as const
      })
      // Every pair must come with what the stage before gave for it, and for no other.
      numbered.forEach(([owner, pair], i) => {
        const expected = stage === 0 ? undefined : [owner, pair, stage - 1]
        expect(states[i] && [...states[i].mark!]).toEqual(expected)
      })
      return {
        logits: Float32Array.from(numbered, ([owner, pair]) => table[owner]![stage]![pair]!),
        states: numbered.map(([owner, pair]) =>
          stage === exits.length - 1 ? undefined : { mark: Float32Array.of(owner, pair, stage) },
        ),
      }
    },
    blockTokens,
  )
  return { ...result, ran }
}

/** The rules of docs/strategies.md word by word, looking at everything again for every decision. */
function obvious(
  topN: number,
  margins: readonly number[],
  exits: ReturnType<typeof exitsOf>,
  table: Table,
  known: number[],
  blockTokens: number,
) {
  const f = Math.fround
  const final = new Map<number, number>()
  const left = new Map<number, { layer: number; logit: number }>()
  let next = 0
  while (next < table.length) {
    const block: number[] = []
    let tokens = 0
    while (next < table.length && (block.length === 0 || tokens + 3 * table[next]![0]!.length <= blockTokens)) {
      tokens += 3 * table[next]![0]!.length
      block.push(next++)
    }
    for (let stage = 0; stage < exits.length - 1; stage++) {
      const { scale, offset } = exits[stage]!.calibration
      const estimateOf = (place: number) => Math.max(...table[place]![stage]!.map((x) => f(scale * f(x) + offset)))
      const staying = block.filter((place) => !left.has(place))
      for (const place of staying) {
        const better = [...known, ...final.values(), ...staying.map(estimateOf)].filter(
          (other) => other > estimateOf(place) + margins[stage]!,
        )
        if (better.length >= topN) left.set(place, { layer: exits[stage]!.layer, logit: estimateOf(place) })
      }
    }
    for (const place of block)
      if (!left.has(place)) final.set(place, Math.max(...table[place]!.at(-1)!.map((x) => f(x))))
  }
  return { final, left }
}

const logit = fc.integer({ min: -40, max: 40 }).map((n) => n / 8)

const cases = fc.integer({ min: 1, max: 3 }).chain((early) =>
  fc.record({
    calibrations: fc.array(fc.record({ scale: fc.constantFrom(0.5, 1, 1.7), offset: fc.constantFrom(-1, 0, 0.3) }), {
      minLength: early,
      maxLength: early,
    }),
    margins: fc.array(fc.constantFrom(0, 0.25, 1, 3), { minLength: early, maxLength: early }),
    topN: fc.integer({ min: 1, max: 6 }),
    known: fc.array(logit, { maxLength: 4 }),
    blockTokens: fc.constantFrom(1, 9, 20, 1000),
    table: fc.array(
      fc.integer({ min: 1, max: 3 }).chain((pairs) => {
        const row = fc.array(logit, { minLength: pairs, maxLength: pairs })
        return fc.array(row, { minLength: early + 1, maxLength: early + 1 })
      }),
      { minLength: 1, maxLength: 20 },
    ),
  }),
)

describe('leaving one by one', () => {
  it('is what the rules say, decided with everything looked at again', async () => {
    await fc.assert(
      fc.asyncProperty(cases, async ({ calibrations, margins, topN, known, blockTokens, table }) => {
        const exits = exitsOf(calibrations)
        const result = await run({ kind: 'confident', topN, margins }, exits, table, known, blockTokens)
        const wanted = obvious(topN, margins, exits, table, known, blockTokens)
        expect(new Map(result.final.flatMap((score, i) => (score ? [[i, score.logit]] : [])))).toEqual(wanted.final)
        const left = [...result.left].map(([i, { layer, score }]) => [i, { layer, logit: score.logit }] as const)
        expect(new Map(left)).toEqual(wanted.left)
        // Enough final scores for all results that are returned.
        if (wanted.left.size > 0) expect(known.length + wanted.final.size).toBeGreaterThanOrEqual(topN)
        const pairsOf = (place: number) => table[place]![0]!.length
        const ended = [...wanted.final.keys()].reduce((sum, place) => sum + pairsOf(place), 0)
        expect(result.ran.at(-1)).toBe(ended)
      }),
      { numRuns: 300 },
    )
  })

  it('never loses one of the first when estimates are nearer to the final scores than half the margin', async () => {
    await fc.assert(
      fc.asyncProperty(cases, fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })), async (given, noise) => {
        const { margins, topN, blockTokens } = given
        const exits = exitsOf(margins.map(() => ({ scale: 1, offset: 0 })))
        const table = given.table.map((rows) => {
          const last = rows.at(-1)!
          const off = (margin: number) => last.map((x) => x + 0.49 * margin * noise.next().value)
          return [...margins.map(off), last]
        })
        const { final } = await run({ kind: 'confident', topN, margins }, exits, table, [], blockTokens)
        const truth = table.map((rows) => Math.max(...rows.at(-1)!)).sort((a, b) => b - a)
        const found = final.flatMap((score) => score?.logit ?? []).sort((a, b) => b - a)
        expect(found.slice(0, topN)).toEqual(truth.slice(0, topN))
      }),
    )
  })
})

it('lets all leave at the exit that was asked for, with calibrated scores', async () => {
  const exits = exitsOf([
    { scale: 1, offset: 0 },
    { scale: 2, offset: 1 },
  ])
  const table = [
    [[0], [3], [9]],
    [[1], [-1], [9]],
  ]
  const { left, final, ran } = await run({ kind: 'after', exit: 1, layer: 2 }, exits, table, [100], 4)
  expect([...left].map(([i, { layer, score }]) => [i, layer, score.logit])).toEqual([
    [0, 2, 7],
    [1, 2, -1],
  ])
  expect(final).toEqual([undefined, undefined])
  expect(ran).toEqual([2, 2, 0])
})

describe('what a request may ask of a model', () => {
  const rest = { path: '', carries: {}, calibration: { scale: 1, offset: 0 }, fingerprint: '' }
  const margins = (wide: number) => [
    { confidence: 0.9, margin: wide },
    { confidence: 0.99, margin: 2 * wide },
  ]
  const exits = [
    { ...rest, layer: 2, margins: margins(1) },
    { ...rest, layer: 4, margins: margins(0.5) },
    { ...rest, layer: 6, margins: [] },
  ]
  const model = { name: 'm', dtype: 'int8', exits } as const
  const plain = { ...model, exits: [] }

  it('takes the margins of the next confidence that is not below the wanted one', () => {
    const of = (confidence: number) => planExit({ exit: { confidence }, topN: 5 }, model)
    expect(of(0.9)).toEqual({ kind: 'confident', topN: 5, margins: [1, 0.5] })
    expect(of(0.95)).toEqual({ kind: 'confident', topN: 5, margins: [2, 1] })
    expect(planExit({ exit: 'auto', topN: 5 }, model)).toEqual(of(0.99))
    expect(() => of(0.999)).toThrow('strategy.exit: m has margins for a confidence up to 0.99; got 0.999')
  })

  it('stops nothing where there are no first results to reach, no exits, or nothing was asked', () => {
    const never = { kind: 'never' }
    expect(planExit({ exit: 'never', topN: 5 }, model)).toEqual(never)
    expect(planExit({ exit: 'auto', topN: null }, model)).toEqual(never)
    expect(planExit({ exit: { confidence: 0.9 }, topN: null }, model)).toEqual(never)
    expect(planExit({ exit: 'auto', topN: 5 }, plain)).toEqual(never)
    expect(planExit({ exit: { after: 6 }, topN: null }, model)).toEqual(never)
  })

  it('refuses what the model does not have', () => {
    expect(planExit({ exit: { after: 4 }, topN: null }, model)).toEqual({ kind: 'after', exit: 1, layer: 4 })
    const three = () => planExit({ exit: { after: 3 }, topN: null }, model)
    expect(three).toThrow('strategy.exit: m has exits after layers 2, 4, 6; got 3')
    expect(() => planExit({ exit: { after: 2 }, topN: null }, plain)).toThrow('strategy.exit: m has no exits in int8')
    expect(() => planExit({ exit: { confidence: 0.9 }, topN: 1 }, plain)).toThrow('has no exits')
  })
})
