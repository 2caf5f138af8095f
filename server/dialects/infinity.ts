/** Infinity: its `/rerank`, whose documents are strings both ways. Source: michaelfeil/infinity, `infinity_emb/fastapi_schemas`. */
import { z } from 'zod'
import { answerSchema } from './answer.js'
import { type Dialect, errorSchema } from './dialect.js'
import { checked } from './fields.js'
import { oneNameEach, plainFields, understandPlain } from './plain.js'
import { vllmError } from './vllm.js'

const bodySchema = z.strictObject(plainFields).meta(oneNameEach)

export const infinity: Dialect = {
  name: 'infinity',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand: (body) => understandPlain(checked(bodySchema, body), 'string'),
  error: vllmError,
}
