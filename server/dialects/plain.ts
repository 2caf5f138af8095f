/**
 * `/v1/rerank` and, without `texts`, `/rerank`: Rankmill's own request, in which Cohere's, Jina's, vLLM's, Infinity's and
 * Voyage's are contained. `top_k` or `truncation` tells Voyage, whose answer has `data` instead of `results`.
 */
import { z } from 'zod'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { strategySchema } from '../../shared/protocol/strategy.js'
import { answerSchema, rowWith, wholeAnswer } from './answer.js'
import { type Dialect, errorBody, errorSchema, type Said, type Understood } from './dialect.js'
import {
  checked,
  countSchema,
  documentObject,
  documentSchema,
  documentText,
  type GivenDocument,
  invalid,
  logitOf,
  longDocumentsOf,
  modelSchema,
  querySchema,
  textsOf,
} from './fields.js'

const referenceSchema = z.strictObject({
  corpus: z.string().meta({ pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$' }),
  ids: z.array(z.string().min(1).max(256)).min(1, 'must hold at least one id'),
  version: z.string().nullish(),
  missing: z.enum(['error', 'skip']).nullish(),
  scores: z.array(z.number()).nullish(),
})

/** Fields of a request; routes that take more add theirs. */
export const plainFields = {
  id: z.string().nullish().describe('idempotency: the same id with the same content is the same request'),
  query: querySchema,
  documents: z
    .union([z.array(documentSchema).meta({ minItems: 1 }), referenceSchema], {
      error: 'must be an array of strings or of objects with a "text", or {"corpus", "ids"}',
    })
    .refine((documents) => !Array.isArray(documents) || documents.length > 0, 'must hold at least one document')
    .describe('strings, objects with a text, or ids of a stored corpus'),
  model: modelSchema.nullish(),
  top_n: countSchema.nullish().describe('results to return; default: all'),
  topN: countSchema.nullish(),
  top_k: countSchema.nullish().describe("Voyage's name for top_n"),
  max_results: countSchema.nullish(),
  return_documents: z.boolean().nullish(),
  returnDocuments: z.boolean().nullish(),
  max_tokens_per_doc: z.int().min(1).max(1_000_000).nullish(),
  maxTokensPerDoc: z.int().min(1).max(1_000_000).nullish(),
  max_chunks_per_doc: countSchema.nullish(),
  rank_fields: z.array(z.string()).min(1).nullish(),
  raw_scores: z.boolean().nullish().describe('logits instead of scores between 0 and 1'),
  truncation: z.boolean().nullish().describe('false: an error where a document was not read to its end'),
  priority: z.int().min(0).max(999).nullish(),
  deadline_ms: z.int().min(1).max(2_592_000_000).nullish(),
  deadlineMs: z.int().min(1).max(2_592_000_000).nullish(),
  strategy: strategySchema.nullish(),
}
/** Names of one field, of which a request gives one: for the OpenAPI document; `oneOf` below refuses the rest. */
const SAME: readonly (readonly string[])[] = [
  ['top_n', 'topN', 'top_k', 'max_results'],
  ['return_documents', 'returnDocuments'],
  ['max_tokens_per_doc', 'maxTokensPerDoc'],
  ['deadline_ms', 'deadlineMs'],
]
export const oneNameEach = {
  allOf: SAME.flatMap((names) =>
    names.flatMap((name, i) => names.slice(i + 1).map((other) => ({ not: { required: [name, other] } }))),
  ),
}
const bodySchema = z.strictObject(plainFields).meta(oneNameEach)
export type PlainBody = z.output<typeof bodySchema>

/** How documents are said in the rows. */
type Shape = 'object' | 'string'

/** A plain request whose rows have documents in one of two shapes. */
export function understandPlain(body: PlainBody, shape: Shape = 'object'): Understood {
  const topN = oneOf(body, 'top_n', 'topN', 'top_k', 'max_results')
  const returns = oneOf(body, 'return_documents', 'returnDocuments') ?? false
  const isVoyage = (body.top_k ?? undefined) !== undefined || (body.truncation ?? undefined) !== undefined
  const { documents, rank_fields: rankFields } = body
  const given = Array.isArray(documents) ? (documents as GivenDocument[]) : undefined
  const strategy = { ...longDocumentsOf(body.max_chunks_per_doc ?? undefined).strategy, ...body.strategy }
  const request = {
    query: body.query,
    documents: given ? textsOf(given, rankFields ?? undefined) : documents,
    model: body.model ?? undefined,
    topN,
    // What the caller sent need not travel through the queue to come back.
    returnDocuments: given ? undefined : returns,
    maxTokensPerDoc: oneOf(body, 'max_tokens_per_doc', 'maxTokensPerDoc'),
    priority: body.priority ?? undefined,
    deadlineMs: oneOf(body, 'deadline_ms', 'deadlineMs'),
    strategy: Object.keys(strategy).length > 0 ? strategy : undefined,
  } as Omit<RerankInput, 'id'>
  const score = body.raw_scores ? logitOf : (value: number) => value
  return {
    id: body.id ?? undefined,
    request,
    wholeDocuments: body.truncation === false,
    returnsDocuments: returns,
    rawScores: body.raw_scores ?? false,
    answer(result, said) {
      const rows = result.results.map((row) => ({ ...row, relevance_score: score(row.relevance_score) }))
      const results = rows.map((row) =>
        rowWith(row, returns ? (shape === 'object' ? documentObject : documentText)(row, given) : undefined),
      )
      const data = rows.map((row) => ({
        ...(row.id === undefined ? {} : { id: row.id }),
        index: row.index,
        relevance_score: row.relevance_score,
        ...(returns ? { document: documentText(row, given) } : {}),
      }))
      return wholeAnswer(result, said, isVoyage ? { data } : { results, data })
    },
  }
}

export const plain: Dialect = {
  name: 'rankmill',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand: (body) => understandPlain(checked(bodySchema, body)),
  error: errorBody,
}

/** The answer to a request whose caller did not wait: its documents, where they are wanted, are in the result. */
export function laterAnswer(result: RerankResult, said: Said, rawScores: boolean): object {
  const results = rawScores
    ? result.results.map((row) => ({ ...row, relevance_score: logitOf(row.relevance_score) }))
    : result.results
  return wholeAnswer(result, said, { results })
}

/** The value that was given under one of several names. @throws RankmillError `invalid_request` where it is under two */
function oneOf<K extends keyof PlainBody>(
  body: PlainBody,
  ...names: readonly K[]
): NonNullable<PlainBody[K]> | undefined {
  const given = names.filter((name) => body[name] !== undefined && body[name] !== null)
  const [first, second] = given
  if (second !== undefined) throw invalid(second, `given twice, as ${first} and as ${second}`)
  return first === undefined ? undefined : (body[first] ?? undefined)
}
