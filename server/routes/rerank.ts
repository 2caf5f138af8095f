/** The routes that rerank while the caller waits: one for each dialect, and those that several share. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { callerGone } from '../caller-gone.js'
import { cohere } from '../dialects/cohere.js'
import { type Dialect, errorSchema } from '../dialects/dialect.js'
import { infinity } from '../dialects/infinity.js'
import { jina } from '../dialects/jina.js'
import { plain } from '../dialects/plain.js'
import { isTei, tei } from '../dialects/tei.js'
import { vllm } from '../dialects/vllm.js'
import { voyage } from '../dialects/voyage.js'
import { type JobCalls, jobSchema } from '../jobs/job-calls.js'
import { jsonStream } from '../json-stream.js'
import { pairsOf, type RerankCalls } from '../rerank-calls.js'
import { toldOnly } from '../told-only.js'
import { preferenceOf, waitQuery } from './preference.js'

/** Base URLs of one dialect each, for clients whose request does not tell which it is. */
const ROUTES: readonly (readonly [Dialect, readonly string[]])[] = [
  [plain, ['/v1/rerank']],
  [cohere, ['/v2/rerank', '/cohere/v1/rerank', '/cohere/v2/rerank']],
  [jina, ['/jina/v1/rerank', '/jina/rerank']],
  [voyage, ['/voyage/v1/rerank', '/voyage/rerank']],
  [tei, ['/tei/rerank']],
  [infinity, ['/infinity/rerank', '/infinity/v1/rerank']],
  [vllm, ['/vllm/rerank', '/vllm/v1/rerank', '/vllm/v2/rerank']],
]

/** TEI's where the body has `texts`, else as `/v1/rerank`. */
const shared: Dialect = {
  name: 'rankmill or tei',
  body: z.union([plain.body, tei.body]),
  reply: z.union([plain.reply, tei.reply]),
  errorReply: z.union([plain.errorReply, tei.errorReply]),
  understand: (body) => (isTei(body) ? tei : plain).understand(body),
  error: (error, requestId, body) => (isTei(body) ? tei : plain).error(error, requestId, body),
}

const STATUSES = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503, 504, 507]
const errorRepliesOf = (schema: z.ZodType) => Object.fromEntries(STATUSES.map((status) => [status, schema]))
export const errorReplies = errorRepliesOf(errorSchema)

export function rerankRoutes(app: FastifyInstance, calls: RerankCalls, jobs: JobCalls): void {
  for (const [dialect, urls] of ROUTES) for (const url of urls) route(app, url, dialect, calls, jobs)
  route(app, '/rerank', shared, calls, jobs)
}

function route(app: FastifyInstance, url: string, dialect: Dialect, calls: RerankCalls, jobs: JobCalls): void {
  app.post(
    url,
    {
      config: { dialect },
      schema: {
        tags: ['rerank'],
        summary: `Rerank documents (${dialect.name})`,
        querystring: waitQuery,
        // The dialect reads the body itself, to say its errors in its own words.
        body: toldOnly(dialect.body),
        response: { 200: dialect.reply, 202: jobSchema, ...errorRepliesOf(dialect.errorReply) },
      },
    },
    async (request, reply) => reranked(request, reply, dialect, calls, jobs),
  )
}

async function reranked(
  request: FastifyRequest,
  reply: FastifyReply,
  dialect: Dialect,
  calls: RerankCalls,
  jobs: JobCalls,
): Promise<unknown> {
  const understood = withIdempotencyKey(dialect.understand(request.body), request.headers['idempotency-key'])
  request.pairs = pairsOf(understood.request)
  const preference = preferenceOf(request)
  if (preference) return jobs.start(request, reply, understood, preference)
  const result = await calls.ask(request.caller, understood, callerGone(reply), request.traceParent)
  const answer = understood.answer(result, { id: understood.id ?? request.id, created: Math.floor(Date.now() / 1000) })
  const stream = jsonStream(answer)
  return stream ? reply.type('application/json; charset=utf-8').send(stream) : answer
}

/** The header names the request where its body does not. */
export function withIdempotencyKey<T extends { id?: string | undefined }>(
  understood: T,
  key: string | string[] | undefined,
): T {
  return understood.id === undefined && typeof key === 'string' && key !== '' ? { ...understood, id: key } : understood
}
