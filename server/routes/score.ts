/** `/score` as vLLM has it: scores of text pairs, in the order that they were sent. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { callerGone } from '../caller-gone.js'
import type { Dialect } from '../dialects/dialect.js'
import { checked, invalid, modelSchema, querySchema, tokenUsage } from '../dialects/fields.js'
import { vllmError } from '../dialects/vllm.js'
import type { RerankCalls } from '../rerank-calls.js'
import { errorReplies } from './rerank.js'

const textsOf = (text: z.ZodString) =>
  z.union([text, z.array(text).min(1)], {
    error: 'must be a string, or an array of strings, none of the queries empty',
  })
const bodySchema = z
  .strictObject({
    model: modelSchema.nullish(),
    text_1: textsOf(querySchema).optional(),
    text_2: textsOf(z.string()).optional(),
    queries: textsOf(querySchema).nullish().describe('another name for text_1'),
    documents: textsOf(z.string()).nullish().describe('another name for text_2'),
    encoding_format: z.literal('float').nullish(),
    truncate_prompt_tokens: z.literal(-1).nullish(),
    user: z.string().nullish(),
  })
  .meta({
    required: ['text_1', 'text_2'],
    allOf: [{ not: { required: ['queries'] } }, { not: { required: ['documents'] } }],
  })
const replySchema = z.looseObject({
  id: z.string(),
  object: z.literal('list'),
  data: z.array(z.object({ index: z.int(), object: z.literal('score'), score: z.number() })),
})
/** Different queries are as many requests: they are asked together, so many at once. */
const AT_ONCE = 64

const dialect = { error: vllmError } as unknown as Dialect

export function scoreRoutes(app: FastifyInstance, calls: RerankCalls): void {
  for (const url of ['/score', '/v1/score', '/vllm/score', '/vllm/v1/score']) {
    app.post(
      url,
      {
        config: { dialect },
        schema: {
          tags: ['rerank'],
          summary: 'Score pairs of texts (vllm)',
          body: bodySchema,
          response: { 200: replySchema, ...errorReplies },
        },
      },
      async (request, reply) => {
        const body = checked(bodySchema, request.body)
        const queries = textsIn(body, 'text_1', 'queries')
        const documents = textsIn(body, 'text_2', 'documents')
        const pairs = pairsOf(queries, documents)
        request.pairs = pairs.reduce((sum, { documents }) => sum + documents.length, 0)
        const signal = callerGone(reply)
        const results: RerankResult[] = []
        for (let i = 0; i < pairs.length; i += AT_ONCE) {
          const some = pairs.slice(i, i + AT_ONCE)
          const asked = some.map((pair) =>
            calls.ask(
              request.caller,
              { request: { ...pair, model: body.model ?? undefined }, answer: () => null },
              signal,
            ),
          )
          // All of them end before the first error is told: none is left behind without its caller.
          const ended = await Promise.allSettled(asked)
          for (const end of ended) {
            if (end.status === 'rejected') throw RankmillError.from(end.reason)
            results.push(end.value)
          }
        }
        const scores = results.flatMap(({ results: rows }) =>
          [...rows].sort((a, b) => a.index - b.index).map((row) => row.relevance_score),
        )
        const tokens = results.map(tokenUsage).reduce((sum, { total_tokens }) => sum + total_tokens, 0)
        return {
          id: `score-${request.id}`,
          object: 'list',
          created: Math.floor(Date.now() / 1000),
          model: results[0]?.model,
          data: scores.map((score, index) => ({ index, object: 'score', score })),
          usage: { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0 },
        }
      },
    )
  }
}

type Body = z.output<typeof bodySchema>

function textsIn(body: Body, name: 'text_1' | 'text_2', other: 'queries' | 'documents'): string[] {
  if (body[name] !== undefined && body[other] !== undefined)
    throw invalid(other, `given twice, as ${name} and as ${other}`)
  const texts = body[name] ?? body[other]
  if (texts === undefined || texts === null) throw invalid(name, 'is missing')
  return [texts].flat()
}

/** One text with many, or as many with as many: requests, in order. */
function pairsOf(queries: readonly string[], documents: readonly string[]): { query: string; documents: string[] }[] {
  const [only = ''] = queries
  if (queries.length === 1) return [{ query: only, documents: [...documents] }]
  if (documents.length === 1) return queries.map((query) => ({ query, documents: [...documents] }))
  if (queries.length !== documents.length) {
    throw invalid('text_2', `must hold one text, or as many as text_1 (${queries.length}), got ${documents.length}`)
  }
  return queries.map((query, i) => ({ query, documents: [documents[i] ?? ''] }))
}
