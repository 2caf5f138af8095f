/** Requests that are not waited for: submit, look, wait, follow, cancel, delete, list. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { callerGone } from '../caller-gone.js'
import { checked } from '../dialects/fields.js'
import { oneNameEach, plainFields, understandPlain } from '../dialects/plain.js'
import { eventStream } from '../event-stream.js'
import { type JobCalls, jobSchema } from '../jobs/job-calls.js'
import { told } from '../told-only.js'
import { typedRoutes } from '../typed-routes.js'
import type { Webhooks } from '../webhooks/webhooks.js'
import { durationOf, preferenceOf, waitQuery } from './preference.js'
import { errorReplies, withIdempotencyKey } from './rerank.js'

const urlSchema = z.string().meta({ pattern: '^https://[a-z]{3,20}[.]example/$' })
export const webhookField = z
  .union([urlSchema, z.strictObject({ url: urlSchema })], { error: 'must be a URL, or {"url"}' })
  .nullish()
  .describe('where to POST an event at the end, signed as Standard Webhooks has it')

const bodySchema = z.strictObject({ ...plainFields, webhook: webhookField }).meta(oneNameEach)
const idParams = z.object({ id: z.string().min(1) })
export const listQuery = z.object({
  limit: z.coerce.number().int().min(1).max(100).optional().describe('default: 20'),
  after: z.string().optional().describe('the last id of the page before'),
})
const DEFAULT_LIMIT = 20
/** How often a job that runs is looked at for those who follow it. */
const LOOK_MS = 1000

export function jobRoutes(app: FastifyInstance, jobs: JobCalls, webhooks: Webhooks): void {
  const typed = typedRoutes(app)
  const tags = ['jobs']

  typed.post(
    '/v1/rerank/jobs',
    {
      schema: {
        tags,
        summary: 'Submit a request and come back later',
        querystring: waitQuery,
        body: bodySchema,
        response: { 200: jobSchema, 202: jobSchema, ...errorReplies },
      },
    },
    async (request, reply) => {
      const { webhook, ...body } = checked(bodySchema, request.body)
      const understood = withIdempotencyKey(understandPlain(body), request.headers['idempotency-key'])
      const url = webhookUrl(webhook)
      if (url !== null) webhooks.check(request.caller, url)
      const preference = preferenceOf(request) ?? { waitMs: 0, applied: undefined }
      return jobs.start(request, reply, understood, preference, url)
    },
  )

  typed.get(
    '/v1/rerank/jobs',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'Jobs, the newest first',
        querystring: listQuery,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, after } = request.query
      const { jobs: data, hasMore } = await jobs.list(request.caller, limit, after)
      return pageOf(data as { id: string }[], hasMore)
    },
  )

  typed.get(
    '/v1/rerank/jobs/:id',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'A job, with its result once it has one',
        params: idParams,
        querystring: waitQuery,
        response: { 200: jobSchema, ...errorReplies },
      },
    },
    async (request, reply) => {
      const { wait } = request.query
      const waitMs = wait === undefined ? (preferenceOf(request)?.waitMs ?? 0) : durationOf(wait)
      return jobs.show(request.caller, request.params.id, waitMs, callerGone(reply))
    },
  )

  typed.get(
    '/v1/rerank/jobs/:id/events',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'What becomes of a job, as server-sent events',
        params: idParams,
        response: { 200: told('text/event-stream', 'what becomes of a job'), ...errorReplies },
      },
    },
    async (request, reply) => {
      const { caller, params } = request
      const look = async (isFirst: boolean) => {
        const job = (await jobs.show(caller, params.id, isFirst ? 0 : LOOK_MS)) as { status: string }
        const isOver = job.status !== 'waiting' && job.status !== 'running'
        return { id: job.status, event: isOver ? 'end' : 'status', data: job, isOver }
      }
      await eventStream(request, reply, look)
    },
  )

  typed.post(
    '/v1/rerank/jobs/:id/cancel',
    { schema: { tags, summary: 'Cancel a job', params: idParams, response: { 200: jobSchema, ...errorReplies } } },
    async (request) => jobs.cancel(request.caller, request.params.id),
  )

  typed.delete(
    '/v1/rerank/jobs/:id',
    {
      schema: {
        tags,
        summary: 'Cancel a job and forget it',
        params: idParams,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => jobs.remove(request.caller, request.params.id),
  )
}

export function webhookUrl(webhook: z.output<typeof webhookField>): string | null {
  return typeof webhook === 'string' ? webhook : (webhook?.url ?? null)
}

/** A page of a list, as OpenAI says it. */
export function pageOf(data: readonly { readonly id: string }[], hasMore: boolean): object {
  return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: hasMore }
}
