/** How a request's documents are scored: `strategy` in a request (docs/strategies.md). */
import { z } from 'zod'
import { RankmillError } from './errors.js'

/** What is read of a document that is too long for the model. */
export type LongDocuments = 'truncate' | 'windows' | 'snippet'

/** What goes to the model only after a cheaper look at all candidates of the request. */
export interface Prefilter {
  /** Candidates that the model scores: so many (1 or more), a share of all (below 1), or as many as seems safe. */
  readonly keep: number | 'auto'
  /** `bm25`, or a bi-encoder that the workers serve. */
  readonly model: string
}

/**
 * Whether candidates may leave the model between its layers: never; all of them after a layer; those that no longer reach
 * the first `topN` with a confidence; or `auto`, with one of 0.99.
 */
export type Exit = 'auto' | 'never' | { readonly after: number } | { readonly confidence: number }

/** A strategy, filled. */
export interface Strategy {
  /** auto: what the worker was started with. */
  readonly dtype: 'auto' | 'fp32' | 'fp16' | 'int8'
  readonly longDocuments: LongDocuments
  /** null: the model scores every candidate. */
  readonly prefilter: Prefilter | null
  /** Share of the model's rank in the final order, 0 to 1, the rest being the prefilter's; null: the model's order. */
  readonly fuse: number | null
  readonly exit: Exit
}

/** What callers may give. */
export interface StrategyInput {
  dtype?: Strategy['dtype'] | undefined
  long_documents?: LongDocuments | undefined
  prefilter?: { keep?: Prefilter['keep'] | undefined; model?: string | undefined } | undefined
  fuse?: 'none' | 'rrf' | { weight: number } | undefined
  /** `after:2`: all candidates leave after two layers. */
  exit?: 'auto' | 'never' | `after:${number}` | { confidence: number } | undefined
}

const keepSchema = z.custom<Prefilter['keep']>(isKeep, {
  error: (issue) =>
    'must be a whole number of documents (1 or more), a share of them (above 0, below 1) or "auto", ' +
    `got ${JSON.stringify(issue.input)}`,
})
const fuseSchema = z.union([z.enum(['none', 'rrf']), z.strictObject({ weight: z.number().min(0).max(1) })], {
  error: 'must be "none", "rrf" or {"weight": 0 to 1}',
})

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
  dtype: z.enum(['auto', 'fp32', 'fp16', 'int8']).nullish(),
  long_documents: z.enum(['truncate', 'windows', 'snippet']).nullish(),
  prefilter: z.strictObject({ keep: keepSchema.nullish(), model: z.string().min(1).max(512).nullish() }).nullish(),
  fuse: fuseSchema.nullish(),
  exit: exitSchema.nullish(),
})
type GivenStrategy = z.output<typeof strategySchema>

/**
 * Fills a strategy.
 *
 * @param documents how many the request has
 * @param maxPrefilterDocuments A filter has to see all candidates at once, so that such a request is never split: its
 *   size has a bound of its own.
 * @throws RankmillError `invalid_request` or `too_many_documents`, naming the field
 */
export function fillStrategy(
  given: GivenStrategy | null | undefined,
  documents: number,
  maxPrefilterDocuments: number,
): Strategy {
  const { dtype, long_documents: longDocuments, prefilter, fuse, exit } = given ?? {}
  if (prefilter && documents > maxPrefilterDocuments) {
    const message =
      `documents: a request with strategy.prefilter must hold at most ${maxPrefilterDocuments} documents ` +
      `(maxPrefilterDocuments), got ${documents}`
    throw new RankmillError('too_many_documents', message, { param: 'documents' })
  }
  const weight = weightOf(fuse ?? 'none', prefilter)
  return {
    dtype: dtype ?? 'auto',
    longDocuments: longDocuments ?? 'truncate',
    prefilter: prefilter ? { keep: prefilter.keep ?? 'auto', model: prefilter.model ?? 'bm25' } : null,
    fuse: weight,
    exit: exitOf(exit ?? 'never', weight),
  }
}

/** The model's share of the final order; each has half where the caller does not say. */
function weightOf(fuse: NonNullable<GivenStrategy['fuse']>, prefilter: GivenStrategy['prefilter']): number | null {
  if (fuse === 'none') return null
  if (!prefilter) {
    const message = 'strategy.fuse: needs strategy.prefilter, with whose order it fuses the model’s'
    throw new RankmillError('invalid_request', message, { param: 'strategy.fuse' })
  }
  return fuse === 'rrf' ? 0.5 : fuse.weight
}

/** Fusion needs a rank by the model of every candidate, which those that leave one by one do not have. */
function exitOf(given: string | { confidence: number }, fuse: number | null): Exit {
  if (typeof given === 'object') {
    if (fuse === null) return given
    const message = 'strategy.exit: a confidence cannot go with strategy.fuse, which needs the rank of every candidate'
    throw new RankmillError('invalid_request', message, { param: 'strategy.exit' })
  }
  if (given === 'never' || (given === 'auto' && fuse !== null)) return 'never'
  return given === 'auto' ? 'auto' : { after: Number(given.slice('after:'.length)) }
}
