/** The candidates of a request, sent along or named in a corpus: schemas and types, as on the wire. */
import { z } from 'zod'
import { CORPUS_NAME_RULE, isCorpus } from '../corpus/corpus-name.js'
import { RankmillError } from '../errors.js'
import { idSchema, isText, textSchema } from './field-schemas.js'
import { FIRST_STAGE_FILTER, type Strategy, usesFirstStage } from './strategy.js'

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

export type Documents = readonly Document[] | CorpusReference

/** So that means and deviations of many are finite too. */
const LARGEST_SCORE = 1e100
const scoreSchema = z.number().min(-LARGEST_SCORE).max(LARGEST_SCORE)

/** The schemas of both kinds: two instead of a union, whose errors would name neither the field nor the limit. */
export function documentsSchemas(limits: { readonly maxDocuments: number; readonly maxDocumentBytes: number }) {
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
  return { inline, reference }
}

/**
 * Documents that are nothing but good texts, which most are, without the cost of a schema for each.
 *
 * @returns undefined where the schema has to look, and to say what is wrong
 */
export function plainDocuments(
  given: unknown,
  limits: { readonly maxDocuments: number; readonly maxDocumentBytes: number },
): Document[] | undefined {
  if (!Array.isArray(given) || given.length === 0 || given.length > limits.maxDocuments) return undefined
  const documents: Document[] = []
  for (const text of given as unknown[]) {
    if (!isText(text, limits.maxDocumentBytes)) return undefined
    documents.push({ text })
  }
  return documents
}

export function filledReference(documents: object): object {
  if (!('corpus' in documents)) return documents
  const { corpus, version, ids, missing, scores } = documents as Partial<CorpusReference>
  return { corpus, version: version ?? null, ids, missing: missing ?? 'error', scores: scores ?? null }
}

/** Documents with the scores of their first stage where the strategy looks at these, and without where they change nothing. */
export function withScores(documents: Documents, strategy: Strategy): Documents {
  const isUsed = usesFirstStage(strategy)
  if (isCorpusReference(documents)) {
    if (isUsed && documents.scores === null) throw scoreNeeded('documents.scores', 'one for each of the ids')
    return isUsed ? documents : { ...documents, scores: null }
  }
  if (!isUsed) {
    const isScored = documents.some(({ score }) => score !== undefined)
    return isScored ? documents.map(({ score: _, ...document }) => document) : documents
  }
  const place = documents.findIndex(({ score }) => score === undefined)
  if (place >= 0) throw scoreNeeded(`documents.${place}.score`, 'one of every document')
  return documents
}

function scoreNeeded(param: string, what: string): RankmillError {
  const message = `${param}: strategy.prefilter looks at "${FIRST_STAGE_FILTER}", which needs ${what}`
  return new RankmillError('invalid_request', message, { param })
}

export function isCorpusReference(documents: Documents): documents is CorpusReference {
  return !Array.isArray(documents)
}

/** Number of candidates, inline or by reference. */
export function candidateCount(documents: Documents): number {
  return isCorpusReference(documents) ? documents.ids.length : documents.length
}
