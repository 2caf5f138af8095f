/** Text Embeddings Inference: its `/rerank`. Source: huggingface.github.io/text-embeddings-inference, and its router. */
import { z } from 'zod'
import type { ErrorCode, RankmillError } from '../../shared/errors.js'
import type { Dialect } from './dialect.js'
import { checked, countSchema, invalid, logitOf, modelSchema, querySchema } from './fields.js'

const bodySchema = z.strictObject({
  query: querySchema,
  texts: z.array(z.string()).min(1, 'must hold at least one text'),
  raw_scores: z.boolean().nullish(),
  return_text: z.boolean().nullish(),
  truncate: z.boolean().nullish(),
  truncation_direction: z.enum(['left', 'right', 'Left', 'Right']).nullish(),
  // TEI has none of these; clients and proxies that speak several dialects send them.
  model: modelSchema.nullish(),
  top_n: countSchema.nullish(),
  top_k: countSchema.nullish(),
})

const KINDS: Partial<Record<ErrorCode, string>> = {
  overloaded: 'overloaded',
  rate_limited: 'overloaded',
  redis_unavailable: 'unhealthy',
  redis_full: 'unhealthy',
}

const errorSchema = z.looseObject({
  error: z.string(),
  error_type: z.string(),
  code: z.string(),
  request_id: z.string(),
})

export const tei: Dialect = {
  name: 'tei',
  body: bodySchema,
  reply: z.array(z.object({ index: z.int(), score: z.number(), text: z.string().optional() })),
  errorReply: errorSchema,
  understand(body) {
    const { query, texts, model, ...given } = checked(bodySchema, body)
    if (given.truncation_direction?.toLowerCase() === 'left') {
      throw invalid('truncation_direction', 'texts are cut at their end: "right" is the only direction')
    }
    return {
      request: { query, documents: texts, model: model ?? undefined, topN: given.top_n ?? given.top_k ?? undefined },
      wholeDocuments: given.truncate === false,
      answer: ({ results }) =>
        results.map(({ index, relevance_score: score }) => ({
          index,
          ...(given.return_text ? { text: texts[index] } : {}),
          score: given.raw_scores ? logitOf(score) : score,
        })),
    }
  },
  error: (error: RankmillError, requestId) => ({
    error: error.message,
    error_type: KINDS[error.code] ?? (error.status < 500 ? 'validation' : 'backend'),
    code: error.code,
    ...(error.details.param === undefined ? {} : { param: error.details.param }),
    request_id: requestId,
  }),
}

/** Whether a body on a route that several dialects share is TEI's. */
export function isTei(body: unknown): boolean {
  return typeof body === 'object' && body !== null && 'texts' in body
}
