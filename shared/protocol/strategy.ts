/** How a request's documents are scored: `strategy` in a request (docs/strategies.md). */
import { z } from 'zod'
import { RankmillError } from '../errors.js'
import { DTYPES, type Dtype } from './dtype.js'

/** What is read of a document that is too long for the model. */
export type LongDocuments = 'truncate' | 'windows' | 'snippet'

/** What goes to the model only after a cheaper look at all candidates of the request. */
export interface Prefilter {
  /** Candidates that the model scores: so many (1 or more), a share of all (below 1), or as many as seems safe. */
  readonly keep: number | 'auto'
  /** `bm25`, `first-stage`, a bi-encoder that the workers serve, or several with `+` between. */
  readonly model: string
  /** What of several counts: their reciprocal ranks, or their scores in standard deviations from their means. */
  readonly by: 'rank' | 'score'
}

/** The name under which a prefilter looks at the scores that a request brings along. */
export const FIRST_STAGE_FILTER = 'first-stage'

/** Whether documents need the score that a first stage gave them. */
export function usesFirstStage({ prefilter }: Pick<Strategy, 'prefilter'>): boolean {
  return prefilter?.model.split('+').includes(FIRST_STAGE_FILTER) ?? false
}

/**
 * Whether candidates may leave the model between its layers: never; all of them after a layer; those that no longer reach
 * the first `topN` with a confidence; or `auto`, with one of 0.99.
 */
export type Exit = 'auto' | 'never' | { readonly after: number } | { readonly confidence: number }

/** A cheaper model that scores what is there, and how many of them go on. */
export interface CascadeStage {
  readonly model: string
  readonly keep: Prefilter['keep']
}

/** How the prefilter's opinion comes into the final order. */
export interface Fuse {
  /** Reciprocal ranks are mixed, or scores in standard deviations from their means. */
  readonly by: 'rank' | 'score'
  /** Share of the model, 0 to 1, the rest being the prefilter's; or what the model brings along for this filter. */
  readonly weight: number | 'learned'
  /** Which of several filters, from 0; null: what they say together. */
  readonly of: number | null
}

/** A strategy, filled. */
export interface Strategy {
  /** auto: what the worker was started with. */
  readonly dtype: 'auto' | Dtype
  readonly longDocuments: LongDocuments
  /** null: the model scores every candidate. */
  readonly prefilter: Prefilter | null
  /** Models that score before the request's own, the first seeing most; empty: none. */
  readonly cascade: readonly CascadeStage[]
  /** null: the model's order. */
  readonly fuse: Fuse | null
  readonly exit: Exit
}

/** What callers may give. */
export interface StrategyInput {
  dtype?: Strategy['dtype'] | undefined
  long_documents?: LongDocuments | undefined
  prefilter?:
    | { keep?: Prefilter['keep'] | undefined; model?: string | undefined; by?: Prefilter['by'] | undefined }
    | undefined
  cascade?: readonly { model: string; keep?: Prefilter['keep'] | undefined }[] | undefined
  fuse?:
    | 'none'
    | 'rrf'
    | 'learned'
    | { weight: Fuse['weight']; by?: Fuse['by'] | undefined; of?: string | undefined }
    | undefined
  /** `after:2`: all candidates leave after two layers. */
  exit?: 'auto' | 'never' | `after:${number}` | { confidence: number } | undefined
}

const keepSchema = z
  .custom<Prefilter['keep']>(isKeep, {
    error: (issue) =>
      'must be a whole number of documents (1 or more), a share of them (above 0, below 1) or "auto", ' +
      `got ${JSON.stringify(issue.input)}`,
  })
  // For the OpenAPI document, which cannot ask a function.
  .meta({
    anyOf: [
      { const: 'auto' },
      { type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 },
      { type: 'integer', minimum: 1 },
    ],
  })
const fuseSchema = z.union(
  [
    z.enum(['none', 'rrf', 'learned']),
    z.strictObject({
      weight: z.union([z.number().min(0).max(1), z.literal('learned')]),
      by: z.enum(['rank', 'score']).optional(),
      of: z.string().optional(),
    }),
  ],
  {
    error: 'must be "none", "rrf", "learned" or {"weight": 0 to 1, "by": "rank" or "score", "of": one of the filters}',
  },
)
const nameSchema = z.string().min(1).max(512)
/** More stages than that would only cost. */
const MAX_CASCADE = 4

const exitSchema = z.union(
  [
    z.enum(['auto', 'never']),
    z.string().regex(/^after:[1-9]\d{0,2}$/),
    z.strictObject({ confidence: z.number().min(0.5).lt(1) }),
  ],
  { error: 'must be "auto", "never", "after:" and a layer, or {"confidence": 0.5 to below 1}' },
)

function isKeep(keep: unknown): boolean {
  return keep === 'auto' || (typeof keep === 'number' && keep > 0 && (keep < 1 || Number.isSafeInteger(keep)))
}

export const strategySchema = z.strictObject({
  dtype: z.enum(['auto', ...DTYPES]).nullish(),
  long_documents: z.enum(['truncate', 'windows', 'snippet']).nullish(),
  prefilter: z
    .strictObject({ keep: keepSchema.nullish(), model: nameSchema.nullish(), by: z.enum(['rank', 'score']).nullish() })
    .nullish(),
  cascade: z
    .array(z.strictObject({ model: nameSchema, keep: keepSchema.nullish() }))
    .max(MAX_CASCADE, `must hold at most ${MAX_CASCADE} models`)
    .nullish(),
  fuse: fuseSchema.nullish(),
  exit: exitSchema.nullish(),
})
type GivenStrategy = z.output<typeof strategySchema>

/**
 * Fills a strategy.
 *
 * @param documents how many the request has
 * @param maxPrefilterDocuments A filter has to see all candidates at once, and so do the models of a cascade, so that
 *   such a request is never split: its size has a bound of its own.
 * @throws RankmillError `invalid_request` or `too_many_documents`, naming the field
 */
export function fillStrategy(
  given: GivenStrategy | null | undefined,
  documents: number,
  maxPrefilterDocuments: number,
): Strategy {
  const { dtype, long_documents: longDocuments, prefilter, cascade, fuse, exit } = given ?? {}
  const whole = prefilter ? 'strategy.prefilter' : cascade && cascade.length > 0 ? 'strategy.cascade' : undefined
  if (whole !== undefined && documents > maxPrefilterDocuments) {
    const message =
      `documents: a request with ${whole} must hold at most ${maxPrefilterDocuments} documents ` +
      `(maxPrefilterDocuments), got ${documents}`
    throw new RankmillError('too_many_documents', message, { param: 'documents' })
  }
  const filled = filledFuse(fuse ?? 'none', prefilter)
  return {
    dtype: dtype ?? 'auto',
    longDocuments: longDocuments ?? 'truncate',
    prefilter: prefilter
      ? { keep: prefilter.keep ?? 'auto', model: prefilter.model ?? 'bm25', by: prefilter.by ?? 'rank' }
      : null,
    cascade: (cascade ?? []).map(({ model, keep }) => ({ model, keep: keep ?? 'auto' })),
    fuse: filled,
    exit: exitOf(exit ?? 'never', filled),
  }
}

/** Ranks count, and each of both half, where the caller does not say. */
function filledFuse(fuse: NonNullable<GivenStrategy['fuse']>, prefilter: GivenStrategy['prefilter']): Fuse | null {
  if (fuse === 'none') return null
  if (!prefilter) {
    const message = 'strategy.fuse: needs strategy.prefilter, with whose order it fuses the model’s'
    throw new RankmillError('invalid_request', message, { param: 'strategy.fuse' })
  }
  if (fuse === 'learned') return { by: 'score', weight: fuse, of: null }
  if (fuse === 'rrf') return { by: 'rank', weight: 0.5, of: null }
  const isLearned = fuse.weight === 'learned'
  if (isLearned && fuse.by === 'rank') {
    const message = 'strategy.fuse.by: learned weights are of scores, got "rank"'
    throw new RankmillError('invalid_request', message, { param: 'strategy.fuse.by' })
  }
  const by = fuse.by ?? (isLearned ? 'score' : 'rank')
  return { by, weight: fuse.weight, of: fuse.of === undefined ? null : placeOf(fuse.of, prefilter.model ?? 'bm25') }
}

function placeOf(filter: string, model: string): number | null {
  if (filter === model) return null
  const filters = model.split('+')
  const place = filters.indexOf(filter)
  if (place >= 0) return place
  const message = `strategy.fuse.of: must be one of the prefilter's (${filters.join(', ')}), got "${filter}"`
  throw new RankmillError('invalid_request', message, { param: 'strategy.fuse.of' })
}

/** Fusion needs a rank by the model of every candidate, which those that leave one by one do not have. */
function exitOf(given: string | { confidence: number }, fuse: Fuse | null): Exit {
  if (typeof given === 'object') {
    if (fuse === null) return given
    const message = 'strategy.exit: a confidence cannot go with strategy.fuse, which needs the rank of every candidate'
    throw new RankmillError('invalid_request', message, { param: 'strategy.exit' })
  }
  if (given === 'never' || (given === 'auto' && fuse !== null)) return 'never'
  return given === 'auto' ? 'auto' : { after: Number(given.slice('after:'.length)) }
}
