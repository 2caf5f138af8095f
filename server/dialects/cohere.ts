/** Cohere: `/v1/rerank` and `/v2/rerank` of its API. Source: docs.cohere.com, reference/rerank, and the cohere clients. */
import { z } from 'zod'
import { answerSchema } from './answer.js'
import { type Dialect, errorBody, errorSchema } from './dialect.js'
import { checked, countSchema } from './fields.js'
import { oneNameEach, plainFields, understandPlain } from './plain.js'

const bodySchema = z
  .strictObject({
    ...plainFields,
    max_tokens_per_doc: countSchema.nullish(),
    // v1 has it; proxies send it to v2 as well.
    return_documents: z.boolean().nullish(),
  })
  .meta(oneNameEach)

export const cohere: Dialect = {
  name: 'cohere',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand: (body) => understandPlain(checked(bodySchema, body)),
  /** Clients read `message`; Rankmill's own error is beside it. */
  error: (error, requestId) => ({ id: requestId, message: error.message, ...errorBody(error, requestId) }),
}
