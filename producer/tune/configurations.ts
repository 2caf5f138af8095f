/** The ways to rerank that are tried against each other. */
import type { RerankInput } from '../../shared/request.js'

/** Fields of a request that make it cheaper or better. */
export type TunedFields = Pick<RerankInput, 'model' | 'maxTokensPerDoc' | 'strategy'>

export interface Configuration {
  readonly name: string
  readonly fields: TunedFields
}

export interface Choices {
  /** The first is the one that the others are compared with. */
  readonly models: readonly string[]
  readonly dtypes: readonly ('fp32' | 'fp16' | 'int8')[]
  /** Bi-encoders to filter with, besides BM25. */
  readonly filters: readonly string[]
  /** Candidates of a query. */
  readonly depth: number
  /** Tokens that documents have: a limit above most of them changes nothing. */
  readonly longTokens: number
}

const SHARES = [0.5, 0.3, 0.2, 0.1]
const TOKENS = [256, 128, 64]

/**
 * The sensible combinations: each way alone, then the number format, a filter and a limit of length together. The first
 * reads everything with the first model in the first number format.
 */
export function configurationsOf({ models, dtypes, filters, depth, longTokens }: Choices): Configuration[] {
  const [model = ''] = models
  const [baseType = 'fp32'] = dtypes
  const lengths = TOKENS.filter((tokens) => tokens < longTokens)
  const keeps = [...new Set(SHARES.map((share) => Math.max(10, Math.round(depth * share))))].filter(
    (keep) => keep < depth,
  )
  const found: Configuration[] = []
  const add = (
    using: string,
    dtype: Choices['dtypes'][number],
    tokens: number | undefined,
    filter: { keep: number; model: string } | undefined,
    fuse?: { weight: number },
  ) => {
    const parts = [
      using,
      dtype,
      ...(tokens === undefined ? [] : [`first ${tokens} tokens`]),
      ...(filter ? [`best ${filter.keep} by ${filter.model}`] : []),
      ...(fuse ? [`fused ${fuse.weight}`] : []),
    ]
    const strategy = { dtype, ...(filter ? { prefilter: filter } : {}), ...(fuse ? { fuse } : {}) }
    found.push({
      name: parts.join(', '),
      fields: { model: using, ...(tokens ? { maxTokensPerDoc: tokens } : {}), strategy },
    })
  }
  const sieves = ['bm25', ...filters]
  for (const dtype of dtypes) add(model, dtype, undefined, undefined)
  for (const other of models.slice(1)) for (const dtype of dtypes) add(other, dtype, undefined, undefined)
  for (const tokens of lengths) add(model, baseType, tokens, undefined)
  const cheapType = dtypes.at(-1) ?? baseType
  for (const using of models) {
    for (const sieve of sieves) {
      for (const keep of keeps) {
        add(using, cheapType, undefined, { keep, model: sieve })
        if (keep === keeps[0]) add(using, cheapType, undefined, { keep, model: sieve }, { weight: 0.7 })
        for (const tokens of lengths) add(using, cheapType, tokens, { keep, model: sieve })
      }
    }
  }
  return found
}
