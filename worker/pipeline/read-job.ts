/**
 * First of all stages: what a job of whatever release says. Queues outlive workers: a job may come from an older producer,
 * which did not know all fields, or from a newer one, which may mean more than this worker understands.
 */
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { DTYPES } from '../../shared/protocol/dtype.js'
import type { RerankJob } from '../../shared/protocol/job.js'

/** The latest version that is understood. Whoever adds to jobs what changes a result raises the producers' `v` and this. */
const JOB_VERSION = 3

/** The job is of a newer release: it is not for this worker, and goes back to the queue as it is. */
export class NewerJob extends Error {
  override readonly name = 'NewerJob'
}

/** Fields whose values newer releases may add to: another value than those known is theirs. */
const CHOICES: ReadonlySet<string> = new Set([
  ...['dtype', 'longDocuments', 'exit', 'documents', 'documents.missing'],
  ...['prefilter.by', 'prefilter.keep', 'cascade.keep', 'fuse.by', 'fuse.weight'],
])

const time = z.number()
/** Without a look at each of what it holds. */
const list = z.custom<unknown[]>(Array.isArray, 'must be a list')
const keep = z.union([z.number(), z.literal('auto')])
/** Defaults stand for fields that the first producers did not send. */
const schema = z.looseObject({
  v: z.number().default(1),
  requestId: z.string(),
  generation: z.number().default(0),
  part: z.int().default(0),
  parts: z.int().default(1),
  offset: z.int().default(0),
  query: z.string(),
  instruction: z.string().optional(),
  cacheSpace: z.string().optional(),
  traceParent: z.string().optional(),
  // Their texts were checked by the producer; a job has hundreds.
  documents: z.union([
    list,
    z.looseObject({
      corpus: z.string(),
      ids: list,
      version: z.string().nullable().default(null),
      missing: z.enum(['error', 'skip']).default('error'),
      scores: list.nullable().default(null),
    }),
  ]),
  model: z.string().nullable().default(''),
  topN: z.int().nullable().default(null),
  returnDocuments: z.boolean().default(false),
  maxTokensPerDoc: z.number().nullable().default(null),
  dtype: z.enum(['auto', ...DTYPES]).default('auto'),
  longDocuments: z.enum(['truncate', 'windows', 'snippet']).default('truncate'),
  prefilter: z
    .looseObject({ keep, model: z.string(), by: z.enum(['rank', 'score']).default('rank') })
    .nullable()
    .default(null),
  cascade: z.array(z.looseObject({ model: z.string(), keep })).default([]),
  fuse: z
    .looseObject({
      by: z.enum(['rank', 'score']),
      weight: z.union([z.number(), z.literal('learned')]),
      of: z.number().nullable().default(null),
    })
    .nullable()
    .default(null),
  exit: z
    .union([
      z.enum(['auto', 'never']),
      z.strictObject({ after: z.number() }),
      z.strictObject({ confidence: z.number() }),
    ])
    .default('never'),
  priority: z.number().default(0),
  submittedAt: time,
  deadlineAt: time.nullable().default(null),
})

/**
 * A job with every field.
 *
 * @throws NewerJob where this release does not understand it; RankmillError `invalid_request` where it is none, naming the
 *   field
 */
export function readJob(data: unknown): RerankJob {
  const version = (data as { v?: unknown } | null)?.v
  if (typeof version === 'number' && version > JOB_VERSION) {
    throw new NewerJob(`the job is of version ${version}; this worker understands up to ${JOB_VERSION}`)
  }
  const read = schema.safeParse(data)
  if (read.success) return read.data as unknown as RerankJob
  const [issue] = read.error.issues
  const field = issue?.path.join('.') || 'job'
  const isChoice = issue !== undefined && CHOICES.has(issue.path.filter((part) => typeof part !== 'number').join('.'))
  const message = `${field}: ${issue?.message ?? 'cannot be read'}`
  if (isChoice) throw new NewerJob(message)
  throw new RankmillError('invalid_request', `the job cannot be read: ${message}`, { param: field })
}
