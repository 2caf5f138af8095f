/** The ways to rerank that are tried against each other. */
import type { Dtype } from '../../shared/protocol/dtype.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { FIRST_STAGE_FILTER, type StrategyInput } from '../../shared/protocol/strategy.js'
import { seededRandom } from '../../shared/random.js'

/** Fields of a request that make it cheaper or better. */
export type TunedFields = Pick<RerankInput, 'model' | 'maxTokensPerDoc' | 'topN' | 'strategy'>

export interface Configuration {
  readonly name: string
  readonly fields: TunedFields
}

type Exit = Exclude<NonNullable<StrategyInput['exit']>, 'auto' | 'never'>

export interface Choices {
  /** The first is the one that the others are compared with; the others also come before it, in a cascade. */
  readonly models: readonly string[]
  /** The first is the one that the others are compared with; together with other ways the last is tried. */
  readonly dtypes: readonly Dtype[]
  /** Bi-encoders to filter with, besides BM25. */
  readonly filters: readonly string[]
  /** Whether all documents bring along what their first stage gave them. */
  readonly hasFirstStage: boolean
  /** By model: filters that it brings learned weights for. */
  readonly learned: Readonly<Record<string, readonly string[]>>
  /** Ways to leave the first model early, in each of the number formats. */
  readonly exits: readonly Exit[]
  /** Candidates of a query. */
  readonly depth: number
  /** Tokens that documents have: a limit above most of them changes nothing. */
  readonly longTokens: number
  /** Configurations at most; each way alone is always among them. */
  readonly most: number
}

/** A prefilter, but for how many it keeps. */
interface Sieve {
  readonly model: string
  readonly by?: 'score'
}

interface Ways {
  readonly model: string
  readonly dtype: Dtype
  readonly tokens?: number | undefined
  readonly sieve?: (Sieve & { readonly keep: number }) | undefined
  readonly cascade?: { readonly keep: number; readonly model: string } | undefined
  readonly fuse?: 'learned' | { readonly weight: number; readonly by: 'score' } | undefined
  readonly exit?: Exit | undefined
}

const SHARES = [0.5, 0.3, 0.2, 0.15, 0.12, 0.1]
/** So many are returned by most who rerank, and quality is measured over as many. */
const FIRST = 10
const TOKENS = [256, 128, 96, 64]
const BY_SCORE = { weight: 0.7, by: 'score' } as const
const SEED = 7
/** Draws that were there already or make no sense, one after the other, before there is nothing new to find. */
const MAX_VAIN_DRAWS = 500

/**
 * Each way alone; each filter with each `keep` in the cheapest number format; and combinations drawn from all the sensible
 * ones, the same every time, up to `most` in all. The first reads everything with the first model in the first number format.
 */
export function configurationsOf(choices: Choices): Configuration[] {
  const { most } = choices
  const found = new Map<string, Configuration>()
  const add = (ways: Ways) => {
    const configuration = configurationFrom(ways)
    if (isSensible(ways, choices) && !found.has(configuration.name)) found.set(configuration.name, configuration)
  }
  for (const ways of alone(choices)) add(ways)
  const [model = '', dtype = cheapest(choices)] = [choices.models[0]]
  for (const keep of keepsOf(choices))
    for (const sieve of sieves(choices)) if (found.size < most) add({ model, dtype, sieve: { ...sieve, keep } })
  const random = seededRandom(SEED)
  for (let vain = 0; found.size < most && vain < MAX_VAIN_DRAWS; vain++) {
    const before = found.size
    add(drawn(choices, random))
    if (found.size > before) vain = 0
  }
  return [...found.values()]
}

function* alone(choices: Choices): Iterable<Ways> {
  const { models, dtypes, exits } = choices
  const [model = '', ...others] = models
  const [dtype = 'fp32'] = dtypes
  for (const type of dtypes) yield { model, dtype: type }
  for (const other of others) for (const type of dtypes) yield { model: other, dtype: type }
  for (const tokens of lengthsOf(choices)) yield { model, dtype, tokens }
  const keep = keepsOf(choices).find((count) => count <= 0.3 * choices.depth) ?? FIRST
  for (const sieve of sieves(choices)) yield { model, dtype, sieve: { ...sieve, keep } }
  for (const other of others) yield { model, dtype, cascade: { keep, model: other } }
  for (const exit of exits) yield { model, dtype, exit }
  const half = Math.ceil(choices.depth / 2)
  for (const sieve of sieves(choices)) {
    for (const [using, type] of [
      [model, dtype] as const,
      ...others.map((other) => [other, cheapest(choices)] as const),
    ])
      yield {
        model: using,
        dtype: type,
        sieve: { ...sieve, keep: half },
        fuse: fusionsOf(using, sieve.model, choices)[0],
      }
  }
}

/** Ways to fuse a model with a filter, the likeliest first. */
function fusionsOf(
  model: string,
  filter: string,
  { learned }: Choices,
): [NonNullable<Ways['fuse']>, ...(typeof BY_SCORE)[]] {
  return learned[model]?.includes(filter) ? ['learned', BY_SCORE] : [BY_SCORE]
}

/** Several ways together, each of them or not by chance. */
function drawn(choices: Choices, random: () => number): Ways {
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)]
  const maybe = <T>(chance: number, list: readonly T[]): T | undefined => (random() < chance ? pick(list) : undefined)
  const { models, exits } = choices
  const keeps = keepsOf(choices)
  const [model = '', ...others] = models
  const using = maybe(0.15, others) ?? model
  const sieve = maybe(0.85, sieves(choices))
  const cheaper = maybe(0.25, others)
  const [keep = FIRST, second = FIRST] = [pick(keeps), pick(keeps)]
  return {
    model: using,
    dtype: cheapest(choices),
    tokens: maybe(0.4, lengthsOf(choices)),
    sieve: sieve === undefined ? undefined : { ...sieve, keep },
    cascade: cheaper === undefined ? undefined : { keep: second, model: cheaper },
    fuse: sieve === undefined ? undefined : maybe(0.4, fusionsOf(using, sieve.model, choices)),
    exit: maybe(0.2, exits),
  }
}

/** Whether each part of it can change something, and the parts go together. */
function isSensible({ model, sieve, cascade, fuse, exit }: Ways, { models, depth }: Choices): boolean {
  const isFirst = model === models[0]
  const shown = Math.min(depth, sieve?.keep ?? depth, cascade?.keep ?? depth)
  if (sieve && sieve.keep >= depth) return false
  if (cascade && (!isFirst || cascade.keep >= (sieve?.keep ?? depth))) return false
  // Of few candidates nearly all reach the first ten, and fusion needs the rank of each.
  const byConfidence = typeof exit === 'object'
  return !exit || (isFirst && !(byConfidence && (fuse !== undefined || shown < 2 * FIRST)))
}

function configurationFrom({ model, dtype, tokens, sieve, cascade, fuse, exit }: Ways): Configuration {
  const parts = [
    model,
    dtype,
    ...(tokens === undefined ? [] : [`first ${tokens} tokens`]),
    ...(sieve ? [`best ${sieve.keep} by ${sieve.by === 'score' ? 'scores of ' : ''}${sieve.model}`] : []),
    ...(cascade ? [`best ${cascade.keep} by ${cascade.model}`] : []),
    ...(fuse ? [`fused ${typeof fuse === 'string' ? fuse : fuse.weight}`] : []),
    ...(exit ? [`exit ${typeof exit === 'string' ? exit : exit.confidence}`] : []),
  ]
  const strategy: StrategyInput = {
    dtype,
    ...(sieve ? { prefilter: sieve } : {}),
    ...(cascade ? { cascade: [cascade] } : {}),
    ...(fuse ? { fuse } : {}),
    ...(exit ? { exit } : {}),
  }
  const fields: TunedFields = {
    model,
    ...(tokens === undefined ? {} : { maxTokensPerDoc: tokens }),
    // Who may leave depends on how many are wanted.
    ...(typeof exit === 'object' ? { topN: FIRST } : {}),
    strategy,
  }
  return { name: parts.join(', '), fields }
}

function cheapest({ dtypes }: Choices): Dtype {
  return dtypes.at(-1) ?? 'fp32'
}

/** Without a model: the first stage's scores where there are some, which say more than words counted among its candidates. */
function sieves({ filters, hasFirstStage }: Choices): Sieve[] {
  const free = hasFirstStage ? FIRST_STAGE_FILTER : 'bm25'
  const fused = filters.map((filter): Sieve => ({ model: `${free}+${filter}`, by: 'score' }))
  return [...[free, ...filters].map((model) => ({ model })), ...fused]
}

function lengthsOf({ longTokens }: Choices): number[] {
  return TOKENS.filter((tokens) => tokens < longTokens)
}

/** From the largest to ten, which is as many as are measured. */
function keepsOf({ depth }: Choices): number[] {
  const keeps = SHARES.map((share) => Math.max(Math.min(FIRST, depth), Math.round(depth * share)))
  return [...new Set(keeps)].filter((keep) => keep < depth)
}
