/** Requests whose jobs are dead, in every queue and of every caller: what they were, and trying them again. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { type FailedJobs, summaryOf } from '../../shared/redis/failed-jobs.js'
import { typedRoutes } from '../typed-routes.js'
import { errorReplies } from './rerank.js'

const idParams = z.object({ id: z.string().min(1) })
const listQuery = z.object({ limit: z.coerce.number().int().min(1).max(100).optional().describe('default: 20') })
const DEFAULT_LIMIT = 20

export function failedRoutes(app: FastifyInstance, jobs: FailedJobs, { requestTtlMs }: Options): void {
  const typed = typedRoutes(app)
  const tags = ['system']
  typed.get(
    '/v1/failed',
    {
      config: { scope: 'admin' },
      schema: {
        tags,
        summary: 'Dead jobs, the newest first',
        querystring: listQuery,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const refs = await jobs.refs(0, request.query.limit ?? DEFAULT_LIMIT)
      const data: object[] = []
      // One after another: a job may hold megabytes.
      for (const ref of refs) {
        const job = await jobs.load(ref)
        if (job) data.push({ object: 'failed_job', ...summaryOf(job) })
      }
      return { object: 'list', data, total: await jobs.count() }
    },
  )
  typed.post(
    '/v1/failed/:id/retry',
    {
      config: { scope: 'admin' },
      schema: {
        tags,
        summary: 'Put the dead jobs of a request back into the queue',
        params: idParams,
        response: { 202: z.looseObject({}), ...errorReplies },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const { queued, missing } = await jobs.retry(id, requestTtlMs)
      if (missing > 0) {
        const message = `id: ${missing} part(s) of request "${id.slice(0, 200)}" are not kept: submit it again`
        throw new RankmillError('request_lost', message, { param: 'id' })
      }
      return reply.code(202).send({ id, object: 'failed_job', jobs: queued })
    },
  )
}
