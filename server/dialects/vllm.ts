/** vLLM: `/rerank`, `/v1/rerank` and `/v2/rerank` of its server, which always returns documents. Source: docs.vllm.ai. */
import { z } from 'zod'
import type { RankmillError } from '../../shared/errors.js'
import { answerSchema } from './answer.js'
import { type Dialect, errorBody, errorSchema } from './dialect.js'
import { checked, invalid } from './fields.js'
import { oneNameEach, plainFields, understandPlain } from './plain.js'

const bodySchema = z
  .strictObject({
    ...plainFields,
    truncate_prompt_tokens: z.int().min(-1).nullish(),
    user: z.string().nullish(),
  })
  .meta(oneNameEach)

export const vllm: Dialect = {
  name: 'vllm',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand(body) {
    const { truncate_prompt_tokens: tokens, user: _, ...given } = checked(bodySchema, body)
    if (tokens !== undefined && tokens !== null && tokens !== -1) {
      throw invalid(
        'truncate_prompt_tokens',
        'only -1, as many as the model can read; max_tokens_per_doc cuts documents',
      )
    }
    return understandPlain({ ...given, return_documents: given.return_documents ?? true })
  },
  error: vllmError,
}

/** As OpenAI's, with the HTTP status where that has a name. */
export function vllmError(error: RankmillError, requestId: string): object {
  const { error: body } = errorBody(error, requestId)
  return {
    error: {
      ...body,
      type: error.status < 500 ? 'BadRequestError' : 'InternalServerError',
      code: error.status,
      reason: error.code,
    },
  }
}
