/** The answer that most clients can read: results and data, usage in everybody's words, and Rankmill's own fields. */
import { z } from 'zod'
import type { RankedDocument, RerankResult } from '../../shared/protocol/result.js'
import type { Said } from './dialect.js'
import { searchUnits, tokenUsage } from './fields.js'

/** A row without its document, which dialects say in their own way. */
export type Row = Omit<RankedDocument, 'document'> & { document?: unknown }

export interface Rows {
  /** Cohere's, Jina's and Rankmill's own. */
  readonly results?: readonly Row[]
  /** Voyage's. */
  readonly data?: readonly object[]
}

export function wholeAnswer(result: RerankResult, said: Said, { results, data }: Rows): object {
  const { results: _, id: _id, usage, ...rest } = result
  return {
    id: said.id,
    object: 'list',
    ...rest,
    ...(results ? { results } : {}),
    ...(data ? { data } : {}),
    usage: { ...usage, ...tokenUsage(result) },
    meta: {
      api_version: { version: '2' },
      billed_units: { search_units: searchUnits(result) },
      tokens: { input_tokens: usage.tokens, output_tokens: 0 },
    },
  }
}

/** A row with its document, where there is one. */
export function rowWith(row: RankedDocument, document: unknown): Row {
  const { document: _, ...rest } = row
  return document === undefined ? rest : { ...rest, document }
}

const rowSchema = z.looseObject({
  index: z.int().min(0).describe('place of the document in the request'),
  relevance_score: z.number(),
})

export const answerSchema = z.looseObject({
  id: z.string(),
  object: z.literal('list').optional(),
  model: z.string().optional(),
  results: z.array(rowSchema).optional().describe('best first'),
  data: z.array(rowSchema).optional().describe("the same rows, under Voyage's name"),
  usage: z.looseObject({ total_tokens: z.int() }).optional(),
  meta: z.looseObject({}).optional(),
})
