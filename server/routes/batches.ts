/** Batches as OpenAI has them, with Voyage's `request_params`; and their progress as server-sent events. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { BatchRecords, batchObject, isEnded } from '../batches/batch-records.js'
import type { BatchRunner } from '../batches/batch-runner.js'
import { checked, invalid } from '../dialects/fields.js'
import { plainFields } from '../dialects/plain.js'
import { eventStream } from '../event-stream.js'
import type { Files } from '../files/files.js'
import { told } from '../told-only.js'
import { typedRoutes } from '../typed-routes.js'
import type { Webhooks } from '../webhooks/webhooks.js'
import { listQuery, pageOf, webhookField, webhookUrl } from './jobs.js'
import { errorReplies } from './rerank.js'

const ENDPOINTS = ['/v1/rerank', '/v2/rerank', '/rerank'] as const
const { id: _id, query: _query, documents: _documents, ...defaultFields } = plainFields
const bodySchema = z.strictObject({
  input_file_id: z.string(),
  endpoint: z.enum(ENDPOINTS),
  completion_window: z
    .string()
    .meta({ pattern: '^[1-9][0-9]?[mh]$' })
    .describe('24h, 7d: what is not done by then is not done at all'),
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish(),
  output_expires_after: z.looseObject({}).nullish().describe('outputs live as long as other files'),
  request_params: z
    .strictObject(defaultFields)
    .nullish()
    .describe("fields of requests that do not give them (Voyage's)"),
  webhook: webhookField,
})
const batchSchema = z.looseObject({
  id: z.string(),
  object: z.literal('batch'),
  status: z.enum([
    'validating',
    'failed',
    'in_progress',
    'finalizing',
    'completed',
    'expired',
    'cancelling',
    'cancelled',
  ]),
  request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
})
const idParams = z.object({ id: z.string().min(1) })
const MAX_METADATA = 16
const DEFAULT_LIMIT = 20
const UNITS: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 }
const LONGEST_WINDOW_MS = 30 * 86_400_000

export interface BatchParts {
  readonly records: BatchRecords
  readonly runner: BatchRunner
  readonly files: Files
  readonly webhooks: Webhooks
  readonly now: () => number
}

export function batchRoutes(app: FastifyInstance, { records, runner, files, webhooks, now }: BatchParts): void {
  const typed = typedRoutes(app)
  const tags = ['batches']

  typed.post(
    '/v1/batches',
    {
      schema: {
        tags,
        summary: 'Run a file of requests',
        body: bodySchema,
        response: { 200: batchSchema, ...errorReplies },
      },
    },
    async (request) => {
      const body = checked(bodySchema, request.body)
      const { caller } = request
      if (Object.keys(body.metadata ?? {}).length > MAX_METADATA)
        throw invalid('metadata', `must hold at most ${MAX_METADATA} pairs`)
      const windowMs = windowOf(body.completion_window)
      const webhook = webhookUrl(body.webhook)
      if (webhook !== null) webhooks.check(caller, webhook)
      const file = await files.find(caller.owner, body.input_file_id, 'input_file_id')
      const createdAt = now()
      const record = {
        id: BatchRecords.newId(),
        owner: caller.owner,
        endpoint: body.endpoint,
        inputFileId: file.id,
        completionWindow: body.completion_window,
        metadata: body.metadata ?? null,
        defaults: body.request_params ?? {},
        webhook,
        status: 'validating' as const,
        createdAt,
        expiresAt: createdAt + windowMs,
        inProgressAt: null,
        finalizingAt: null,
        endedAt: null,
        total: 0,
        completed: 0,
        failed: 0,
        outputFileId: null,
        errorFileId: null,
        errors: [],
      }
      await records.add(record)
      runner.wake()
      return batchObject({ record, cancelledAt: null })
    },
  )

  typed.get(
    '/v1/batches',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'Batches, the newest first',
        querystring: listQuery,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, after } = request.query
      const { batches, hasMore } = await records.list(request.caller.owner, limit, after)
      return pageOf(batches.map(batchObject), hasMore)
    },
  )

  typed.get(
    '/v1/batches/:id',
    {
      config: { scope: 'read' },
      schema: { tags, summary: 'A batch', params: idParams, response: { 200: batchSchema, ...errorReplies } },
    },
    async (request) => batchObject(await records.find(request.caller.owner, request.params.id)),
  )

  typed.get(
    '/v1/batches/:id/events',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'The progress of a batch, as server-sent events',
        params: idParams,
        response: { 200: told('text/event-stream', 'what becomes of a batch'), ...errorReplies },
      },
    },
    async (request, reply) => {
      const { caller, params } = request
      await eventStream(request, reply, async () => {
        const known = await records.find(caller.owner, params.id)
        const data = batchObject(known)
        const { total, completed, failed } = data.request_counts
        const isOver = isEnded(known.record)
        return {
          id: `${data.status}-${completed}-${failed}-${total}`,
          event: isOver ? 'end' : 'progress',
          data,
          isOver,
        }
      })
    },
  )

  typed.post(
    '/v1/batches/:id/cancel',
    {
      schema: {
        tags,
        summary: 'Cancel a batch; what is done stays',
        params: idParams,
        response: { 200: batchSchema, ...errorReplies },
      },
    },
    async (request) => {
      const { record } = await records.find(request.caller.owner, request.params.id)
      if (!isEnded(record)) await records.cancel(record.id, now())
      runner.wake()
      return batchObject(await records.find(request.caller.owner, request.params.id))
    },
  )
}

/** @returns milliseconds @throws RankmillError `invalid_request` */
function windowOf(text: string): number {
  const [, number, unit = ''] = /^([1-9]\d{0,4})([mhd])$/.exec(text) ?? []
  const ms = Number(number) * (UNITS[unit] ?? 0)
  if (ms > 0 && ms <= LONGEST_WINDOW_MS) return ms
  throw invalid(
    'completion_window',
    `must be a time of at most 30d, as 24h or 7d, got ${JSON.stringify(text.slice(0, 40))}`,
  )
}
