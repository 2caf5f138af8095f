/** What a caller asks: schema, limits and types, as on the wire (README.md, docs/strategies.md). What comes back: result.ts. */
import { z } from 'zod'
import { type ErrorCode, RankmillError } from '../errors.js'
import {
  candidateCount,
  type Documents,
  documentsSchemas,
  filledReference,
  isCorpusReference,
  plainDocuments,
  withScores,
} from './documents.js'
import { idSchema, textSchema } from './field-schemas.js'
import { fillStrategy, type Strategy, type StrategyInput, strategySchema } from './strategy.js'

/** Limits of a request, each an option of the producer. */
export interface RequestLimits {
  readonly maxDocuments: number
  readonly maxDocumentBytes: number
  readonly maxQueryBytes: number
  readonly maxPrefilterDocuments: number
  readonly maxRequestBytes: number
}

/** A request, parsed: every field present, nothing left to default. */
export interface RerankRequest extends Strategy {
  readonly id: string
  readonly query: string
  /** What a model that reads pairs in a prompt is told to judge by; null: its own instruction. */
  readonly instruction: string | null
  readonly documents: Documents
  /** null: the fleet's default, which is resolved when the request is noted. */
  readonly model: string | null
  /** How many results to return; null: all. */
  readonly topN: number | null
  readonly returnDocuments: boolean
  /** Tokens kept of each document before it is paired; null: as many as fit. */
  readonly maxTokensPerDoc: number | null
  /** 0 is served first, 999 last (as in Cohere's API and in BullMQ). */
  readonly priority: number
  /** Milliseconds from submission after which the answer is of no use; null: none. */
  readonly deadlineMs: number | null
  /** Scores that are known of requests of another space are not known to this one; absent: everybody's. */
  readonly cacheSpace?: string
  /** W3C Trace Context, as it stands in a `traceparent` header; in logs alone. */
  readonly traceParent?: string
}

/** What callers may pass; the wire's snake_case names are accepted as well (`top_n`). */
export interface RerankInput {
  id?: string | undefined
  query: string
  documents:
    | readonly (string | { id?: string | undefined; text: string; score?: number | undefined })[]
    | {
        corpus: string
        ids: readonly string[]
        version?: string | undefined
        missing?: 'error' | 'skip' | undefined
        scores?: readonly number[] | undefined
      }
  instruction?: string | undefined
  model?: string | undefined
  topN?: number | undefined
  returnDocuments?: boolean | undefined
  maxTokensPerDoc?: number | undefined
  priority?: number | undefined
  deadlineMs?: number | undefined
  strategy?: StrategyInput | undefined
  cacheSpace?: string | undefined
  traceParent?: string | undefined
}

/** w3.org/TR/trace-context: version, trace id, parent id, flags. */
export const TRACE_PARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/

const ALIASES: ReadonlyMap<string, string> = new Map([
  ['top_n', 'topN'],
  ['return_documents', 'returnDocuments'],
  ['max_tokens_per_doc', 'maxTokensPerDoc'],
  ['deadline_ms', 'deadlineMs'],
])

/** The schema of a request under given limits; made once a client. */
export function requestSchema(limits: RequestLimits) {
  const { inline, reference } = documentsSchemas(limits)
  const fields = {
    id: idSchema.nullish(),
    query: textSchema(limits.maxQueryBytes, 'invalid_request').refine((q) => q.trim() !== '', 'must not be empty'),
    instruction: textSchema(limits.maxQueryBytes, 'invalid_request')
      .refine((text) => text.trim() !== '', 'must not be empty')
      .nullish(),
    model: z.string().min(1).max(512).nullish(),
    topN: z.int().min(1).nullish(),
    returnDocuments: z.boolean().nullish(),
    maxTokensPerDoc: z.int().min(1).max(1_000_000).nullish(),
    priority: z.int().min(0).max(999).nullish(),
    deadlineMs: z
      .int()
      .min(1)
      .max(30 * 86_400_000)
      .nullish(),
    strategy: strategySchema.nullish(),
    cacheSpace: z.string().min(1).max(128).nullish(),
    traceParent: z.string().regex(TRACE_PARENT, 'must be a W3C traceparent').nullish(),
  }
  return {
    inline: z.strictObject({ ...fields, documents: inline }),
    reference: z.strictObject({ ...fields, documents: reference }),
    limits,
  }
}

/** Stands for documents that were looked at already. */
const CHECKED_DOCUMENTS = ['-']

export type RequestSchema = ReturnType<typeof requestSchema>

/**
 * Checks a request and fills it.
 *
 * @param newId makes an id where the caller gave none
 * @throws RankmillError `invalid_request`, `document_too_long` or `too_many_documents`, naming the field, the limit and
 *   the value
 */
export function parseRequest(input: unknown, schema: RequestSchema, newId: () => string): RerankRequest {
  const named = renameAliases(input)
  const given = (named as { documents?: unknown } | null)?.documents
  const isReference = typeof given === 'object' && given !== null && 'corpus' in given
  const plain = plainDocuments(given, schema.limits)
  const checked = plain ? Object.assign(Object.create(null), named, { documents: CHECKED_DOCUMENTS }) : named
  const parsed = (isReference ? schema.reference : schema.inline).safeParse(checked)
  if (!parsed.success) throw describe(parsed.error.issues, named)
  const r = parsed.data
  const documents = plain ?? (filledReference(r.documents) as Documents)
  const { maxPrefilterDocuments, maxRequestBytes } = schema.limits
  const strategy = fillStrategy(r.strategy, candidateCount(documents), maxPrefilterDocuments)
  const request: RerankRequest = {
    id: r.id ?? newId(),
    query: r.query,
    instruction: r.instruction ?? null,
    documents: withScores(documents, strategy),
    model: r.model ?? null,
    topN: r.topN ?? null,
    returnDocuments: r.returnDocuments ?? false,
    maxTokensPerDoc: r.maxTokensPerDoc ?? null,
    priority: r.priority ?? 0,
    deadlineMs: r.deadlineMs ?? null,
    ...strategy,
    ...(r.cacheSpace ? { cacheSpace: r.cacheSpace } : {}),
    ...(r.traceParent ? { traceParent: r.traceParent } : {}),
  }
  const bytes = bytesOf(request)
  if (bytes > maxRequestBytes) {
    const message = `documents: the request must have at most ${maxRequestBytes} bytes (maxRequestBytes), got ${bytes}`
    throw new RankmillError('too_many_documents', message, { param: 'documents' })
  }
  return request
}

/** UTF-8 length of a request's texts and ids. */
export function bytesOf({
  query,
  instruction,
  documents,
}: Pick<RerankRequest, 'query' | 'documents'> & Partial<Pick<RerankRequest, 'instruction'>>): number {
  let bytes = Buffer.byteLength(query) + Buffer.byteLength(instruction ?? '')
  if (isCorpusReference(documents)) for (const id of documents.ids) bytes += Buffer.byteLength(id)
  else
    for (const { id, text } of documents)
      bytes += Buffer.byteLength(text) + (id === undefined ? 0 : Buffer.byteLength(id))
  return bytes
}

function renameAliases(input: unknown): unknown {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return input
  // Without a prototype: `__proto__` and `constructor` are names like any other.
  const named: Record<string, unknown> = Object.create(null)
  for (const [key, value] of Object.entries(input)) {
    const name = ALIASES.get(key) ?? key
    if (name in named) {
      throw new RankmillError('invalid_request', `${key}: given twice, as ${name} and under its other name`, {
        param: key,
      })
    }
    named[name] = value
  }
  return named
}

function describe(issues: readonly z.core.$ZodIssue[], input: unknown): RankmillError {
  const issue = issues[0]
  if (!issue) return new RankmillError('invalid_request', 'the request is not valid')
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0] ?? ''] : issue.path
  const param = path.join('.')
  const code =
    issue.code === 'custom'
      ? ((issue.params?.['code'] as ErrorCode | undefined) ?? 'invalid_request')
      : 'invalid_request'
  const reason = issue.code === 'unrecognized_keys' ? 'unknown field' : issue.message
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : ''
  const got = issue.code === 'custom' || issue.code === 'unrecognized_keys' ? '' : shown(valueAt(input, path))
  return new RankmillError(code, `${param || 'request'}: ${reason}${got}${more}`, { param })
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((value, key) => {
    return typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined
  }, input)
}

function shown(value: unknown): string {
  if (value === undefined || typeof value === 'object') return ''
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return `, got ${text.length > 60 ? `${text.slice(0, 57)}...` : text}`
}
