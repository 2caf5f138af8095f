/** What a caller asks and what comes back: schemas, limits and types, as on the wire (README.md, docs/strategies.md). */
import { z } from 'zod'
import { CORPUS_NAME_RULE, isCorpus } from './corpus/corpus-name.js'
import { type ErrorCode, RankmillError } from './errors.js'
import {
  FIRST_STAGE_FILTER,
  fillStrategy,
  type Strategy,
  type StrategyInput,
  strategySchema,
  usesFirstStage,
} from './strategy.js'

/** Limits of a request, each an option of the producer. */
export interface RequestLimits {
  readonly maxDocuments: number
  readonly maxDocumentBytes: number
  readonly maxQueryBytes: number
  readonly maxPrefilterDocuments: number
}

export interface Document {
  readonly id?: string
  readonly text: string
  /** What the first stage gave it, higher being better; kept where the strategy looks at it. */
  readonly score?: number
}

/** Passages stored before under a corpus's name, by their ids. */
export interface CorpusReference {
  /** A name in Redis, or `file:` and a folder beside the workers. */
  readonly corpus: string
  /** The version to read; null: the one that is current when a worker reads it. */
  readonly version: string | null
  readonly ids: readonly string[]
  /** What becomes of ids that the corpus lacks: the request fails, or goes on without them. */
  readonly missing: 'error' | 'skip'
  /** What the first stage gave the document at the same place, higher being better; null where nothing looks at it. */
  readonly scores: readonly number[] | null
}

/** A request, parsed: every field present, nothing left to default. */
export interface RerankRequest extends Strategy {
  readonly id: string
  readonly query: string
  readonly documents: readonly Document[] | CorpusReference
  /** null: whatever the workers serve first. */
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
  model?: string | undefined
  topN?: number | undefined
  returnDocuments?: boolean | undefined
  maxTokensPerDoc?: number | undefined
  priority?: number | undefined
  deadlineMs?: number | undefined
  strategy?: StrategyInput | undefined
}

export interface Usage {
  /** Pairs of the request. */
  pairs: number
  /** Pairs that went through the model, and through the cheaper ones of a cascade: once for each model. */
  scored: number
  /** Pairs whose score was already known. */
  cached: number
  /** Candidates that the model did not score because a prefilter put them behind. */
  prefiltered: number
  /** Candidates whose embedding a prefilter's model made for this request, each text once; only where it was run. */
  embeddings_computed?: number
  /** Candidates whose embedding was known: stored with the corpus, or from an earlier request; only where it was run. */
  embeddings_reused?: number
  /** Candidates that a cheaper model of `strategy.cascade` put behind; only where one was run. */
  cascaded?: number
  /** Candidates that left the model before its last layer: their scores are estimates. */
  exited_early: number
  /** Tokens that went through the model, padding not counted. */
  tokens: number
  /** Documents of which not every token was read. */
  truncated: number
  /** Windows that documents were read in; only with `long_documents: "windows"`. */
  windows?: number
}

/** Part of a document's text: `text.slice(start, end)`, in UTF-16 code units. */
export interface Window {
  /** Which of the document's windows, from 0. */
  index: number
  start: number
  end: number
}

export interface Timings {
  /** Submission to start of work. */
  queued: number
  tokenize: number
  batch_wait: number
  inference: number
  /** Submission to result written. */
  total: number
}

export interface RankedDocument {
  /** Place of the document in the request, from 0. */
  index: number
  id?: string
  /** After the model's activation (sigmoid: 0 to 1). */
  relevance_score: number
  /**
   * The model that scored it, an exit of it (`rankmill-small@layer2`), or what gave it a place and no score: a cheaper model
   * or a prefilter.
   */
  scored_by: string
  /** The window that the score is of; only with `long_documents: "windows"`. */
  window?: Window
  /** The score is of some of the document's sentences; only with `long_documents: "snippet"`. */
  snippet?: true
  document?: { text: string }
}

export interface RerankResult {
  id: string
  model: string
  results: RankedDocument[]
  /** Ids that the corpus lacks and that were skipped, as `documents.missing: "skip"` asks; absent where there are none. */
  missing?: string[]
  usage: Usage
  timings_ms: Timings
}

const ALIASES: Readonly<Record<string, string>> = {
  top_n: 'topN',
  return_documents: 'returnDocuments',
  max_tokens_per_doc: 'maxTokensPerDoc',
  deadline_ms: 'deadlineMs',
}

const SURROGATE = 'holds a lone surrogate, which is not valid Unicode text'
export const MAX_ID_CHARACTERS = 256
const idSchema = z
  .string()
  .min(1, 'must not be empty')
  .max(MAX_ID_CHARACTERS, `must have at most ${MAX_ID_CHARACTERS} characters`)
  .refine((id) => id.isWellFormed(), SURROGATE)

/** So that means and deviations of many are finite too. */
const LARGEST_SCORE = 1e100
const scoreSchema = z.number().min(-LARGEST_SCORE).max(LARGEST_SCORE)

/** UTF-8 length over the limit? `length` alone decides it for nearly all texts. */
function isLongerThan(text: string, bytes: number): boolean {
  return text.length * 3 > bytes && Buffer.byteLength(text) > bytes
}

function textSchema(limit: number, code: ErrorCode) {
  return z
    .string()
    .refine((text) => !isLongerThan(text, limit), {
      error: (issue) => `must have at most ${limit} bytes, got ${Buffer.byteLength(String(issue.input))}`,
      params: { code },
    })
    .refine((text) => text.isWellFormed(), SURROGATE)
}

/** The schema of a request under given limits; made once a client. */
export function requestSchema(limits: RequestLimits) {
  const atMost = `must hold at most ${limits.maxDocuments} documents`
  const many = <T>(item: z.ZodType<T>) =>
    z
      .array(item)
      .min(1, 'must hold at least one document')
      .refine((list) => list.length <= limits.maxDocuments, {
        error: (issue) => `${atMost}, got ${(issue.input as unknown[]).length}`,
        params: { code: 'too_many_documents' },
        abort: true,
      })
  const inline = many(
    z.preprocess(
      (document) => (typeof document === 'string' ? { text: document } : document),
      z.strictObject({
        id: idSchema.optional(),
        text: textSchema(limits.maxDocumentBytes, 'document_too_long'),
        score: scoreSchema.optional(),
      }),
    ),
  )
  const reference = z
    .strictObject({
      corpus: z.string().refine(isCorpus, CORPUS_NAME_RULE),
      version: z.string().min(1).max(64).nullish(),
      ids: many(idSchema),
      missing: z.enum(['error', 'skip']).nullish(),
      scores: z.array(scoreSchema).nullish(),
    })
    .refine(({ ids, scores }) => !scores || scores.length === ids.length, {
      error: (issue) => {
        const { ids, scores } = issue.input as { ids: unknown[]; scores: unknown[] }
        return `must hold a number for each of the ${ids.length} ids, got ${scores.length}`
      },
      path: ['scores'],
    })
  const fields = {
    id: idSchema.nullish(),
    query: textSchema(limits.maxQueryBytes, 'invalid_request').refine((q) => q.trim() !== '', 'must not be empty'),
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
  }
  // Two schemas instead of a union, whose errors would name neither the field nor the limit.
  return {
    inline: z.strictObject({ ...fields, documents: inline }),
    reference: z.strictObject({ ...fields, documents: reference }),
    maxPrefilterDocuments: limits.maxPrefilterDocuments,
  }
}

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
  const parsed = (isReference ? schema.reference : schema.inline).safeParse(named)
  if (!parsed.success) throw describe(parsed.error.issues, named)
  const r = parsed.data
  const documents = filledReference(r.documents) as RerankRequest['documents']
  const strategy = fillStrategy(r.strategy, candidateCount(documents), schema.maxPrefilterDocuments)
  return {
    id: r.id ?? newId(),
    query: r.query,
    documents: withScores(documents, strategy),
    model: r.model ?? null,
    topN: r.topN ?? null,
    returnDocuments: r.returnDocuments ?? false,
    maxTokensPerDoc: r.maxTokensPerDoc ?? null,
    priority: r.priority ?? 0,
    deadlineMs: r.deadlineMs ?? null,
    ...strategy,
  }
}

function filledReference(documents: object): object {
  if (!('corpus' in documents)) return documents
  const { corpus, version, ids, missing, scores } = documents as Partial<CorpusReference>
  return { corpus, version: version ?? null, ids, missing: missing ?? 'error', scores: scores ?? null }
}

/** Documents with the scores of their first stage where the strategy looks at these, and without where they change nothing. */
function withScores(documents: RerankRequest['documents'], strategy: Strategy): RerankRequest['documents'] {
  const isUsed = usesFirstStage(strategy)
  if (isCorpusReference(documents)) {
    if (isUsed && documents.scores === null) throw scoreNeeded('documents.scores', 'one for each of the ids')
    return isUsed ? documents : { ...documents, scores: null }
  }
  if (!isUsed) return documents.map(({ score: _, ...document }) => document)
  const place = documents.findIndex(({ score }) => score === undefined)
  if (place >= 0) throw scoreNeeded(`documents.${place}.score`, 'one of every document')
  return documents
}

function scoreNeeded(param: string, what: string): RankmillError {
  const message = `${param}: strategy.prefilter looks at "${FIRST_STAGE_FILTER}", which needs ${what}`
  return new RankmillError('invalid_request', message, { param })
}

function renameAliases(input: unknown): unknown {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return input
  const named: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(input)) {
    const name = ALIASES[key] ?? key
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

export function isCorpusReference(documents: RerankRequest['documents']): documents is CorpusReference {
  return !Array.isArray(documents)
}

/** Number of candidates, inline or by reference. */
export function candidateCount(documents: RerankRequest['documents']): number {
  return isCorpusReference(documents) ? documents.ids.length : documents.length
}
