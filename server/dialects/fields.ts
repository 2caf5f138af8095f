/** Fields that dialects have in common: schemas, and what they mean to us. */
import { z } from 'zod'
import { type ErrorCode, RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RankedDocument, RerankResult } from '../../shared/protocol/result.js'

/** A document as a client sends it; objects may carry anything beside their text. */
export type GivenDocument = string | Readonly<Record<string, unknown>>

/** What is white space is not the same to every reader of the OpenAPI document: it is told something simpler. */
export const querySchema = z.string().regex(/\S/, 'must not be empty').meta({ pattern: '[A-Za-z0-9]' })
/** With `rank_fields` an object needs no text; the OpenAPI document tells of the usual case. */
export const documentSchema = z.union(
  [z.string(), z.looseObject({}).meta({ properties: { text: { type: 'string' } }, required: ['text'] })],
  { error: 'must be a string, or an object with a "text"' },
)
export const documentsSchema = z.array(documentSchema).min(1, 'must hold at least one document')
export const modelSchema = z.string().min(1).max(512)
export const countSchema = z.int().min(1)

/**
 * Checks a body. A null is the same as nothing: most clients send one for each option that was not set.
 *
 * @throws RankmillError `invalid_request`, naming the field and the value
 */
export function checked<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const given =
    typeof body === 'object' && body !== null && !Array.isArray(body)
      ? Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
      : body
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  throw describeIssues(parsed.error.issues, given)
}

/** The first of a schema's complaints, as an error that names field, reason and value. */
function describeIssues(issues: readonly z.core.$ZodIssue[], given: unknown, at = 'body'): RankmillError {
  const issue = issues[0]
  if (!issue) return new RankmillError('invalid_request', `${at}: not valid`)
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0] ?? ''] : issue.path
  const param = path.join('.')
  const reason = issue.code === 'unrecognized_keys' ? 'unknown field' : issue.message
  const value = path.reduce<unknown>(
    (inside, key) =>
      typeof inside === 'object' && inside !== null ? (inside as Record<PropertyKey, unknown>)[key] : undefined,
    given,
  )
  const code = issue.code === 'custom' ? (issue.params?.['code'] as ErrorCode | undefined) : undefined
  const got = issue.code === 'unrecognized_keys' ? '' : shown(value)
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : ''
  return new RankmillError(code ?? 'invalid_request', `${param || at}: ${reason}${got}${more}`, { param })
}

function shown(value: unknown): string {
  if (value === undefined || (typeof value === 'object' && value !== null)) return ''
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return `, got ${text.length > 60 ? `${text.slice(0, 57)}...` : text}`
}

export function invalid(param: string, reason: string): RankmillError {
  return new RankmillError('invalid_request', `${param}: ${reason}`, { param })
}

/**
 * The texts to be scored. Cohere's `rank_fields` names the fields of an object that are read, one after another; without
 * it that is `text`.
 *
 * @throws RankmillError `invalid_request`
 */
export function textsOf(
  documents: readonly GivenDocument[],
  rankFields?: readonly string[],
): Exclude<RerankInput['documents'], { corpus: string }> {
  return documents.map((document, place) => {
    if (typeof document === 'string') return document
    const text = rankFields
      ? rankFields
          .map((field) => document[field])
          .filter((value) => value !== undefined && value !== null)
          .map((value) => (typeof value === 'string' ? value : JSON.stringify(value)))
          .join('\n')
      : document['text']
    if (typeof text !== 'string') {
      throw invalid(
        `documents.${place}.text`,
        'must be a string: an object needs a "text", or rank_fields that name others',
      )
    }
    return {
      text,
      ...(typeof document['id'] === 'string' ? { id: document['id'] } : {}),
      ...(typeof document['score'] === 'number' ? { score: document['score'] } : {}),
    }
  })
}

/** The document of a row, as an object: what the client sent, or what a corpus holds. */
export function documentObject(
  row: RankedDocument,
  documents: readonly GivenDocument[] | undefined,
): object | undefined {
  const given = documents?.[row.index]
  if (given === undefined) return row.document
  return typeof given === 'string' ? { text: given } : given
}

/** The document of a row, as its text. */
export function documentText(row: RankedDocument, documents: readonly GivenDocument[] | undefined): string | undefined {
  const given = documents?.[row.index]
  if (typeof given === 'string') return given
  const text = given?.['text'] ?? row.document?.text
  return typeof text === 'string' ? text : undefined
}

/**
 * Cohere's `max_chunks_per_doc`: with one chunk a document is cut, with more it is read in windows and the best one counts.
 * How many windows at most is the workers' `maxWindows`, whatever number is given here.
 */
export function longDocumentsOf(maxChunks: number | undefined): Pick<RerankInput, 'strategy'> {
  if (maxChunks === undefined) return {}
  return { strategy: { long_documents: maxChunks > 1 ? 'windows' : 'truncate' } }
}

/**
 * The logit of a score between 0 and 1: what the model said before its sigmoid. A score outside is a logit already, of a
 * model without one.
 */
export function logitOf(score: number): number {
  if (score < 0 || score > 1) return score
  const inside = Math.min(1 - Number.EPSILON, Math.max(Number.MIN_VALUE, score))
  return Math.log(inside) - Math.log1p(-inside)
}

/** Tokens as peers count them: those that went through the model, those of cached pairs not counted again. */
export function tokenUsage({ usage }: RerankResult): { prompt_tokens: number; total_tokens: number } {
  return { prompt_tokens: usage.tokens, total_tokens: usage.tokens }
}

/** Cohere's unit: a query with up to 100 documents. Nothing is billed; clients show it. */
export function searchUnits({ usage }: RerankResult): number {
  return Math.max(1, Math.ceil(usage.pairs / 100))
}
