/** Webhooks that nobody took: what they were, and sending them again. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { typedRoutes } from '../typed-routes.js'
import type { Webhooks } from '../webhooks/webhooks.js'
import { errorReplies } from './rerank.js'

const idParams = z.object({ id: z.string().min(1) })
const LISTED = 100

export function webhookRoutes(app: FastifyInstance, webhooks: Webhooks): void {
  const typed = typedRoutes(app)
  const tags = ['webhooks']
  typed.get(
    '/v1/webhooks/failed',
    {
      config: { scope: 'read' },
      schema: { tags, summary: 'Webhooks that nobody took', response: { 200: z.looseObject({}), ...errorReplies } },
    },
    async (request) => {
      const dead = await webhooks.dead(request.caller, LISTED)
      const data = dead.map(({ createdAt, ...letter }) => ({
        object: 'webhook',
        ...letter,
        created_at: Math.floor(createdAt / 1000),
      }))
      return { object: 'list', data }
    },
  )
  typed.post(
    '/v1/webhooks/failed/:id/retry',
    {
      schema: {
        tags,
        summary: 'Send one again',
        params: idParams,
        response: { 202: z.looseObject({}), ...errorReplies },
      },
    },
    async (request, reply) => {
      await webhooks.resend(request.caller, request.params.id)
      return reply.code(202).send({ id: request.params.id, object: 'webhook', status: 'waiting' })
    },
  )
}
