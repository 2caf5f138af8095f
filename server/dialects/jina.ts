/** Jina: `/v1/rerank` of its API, which returns documents unless told not to. Source: api.jina.ai, "Reranker API". */
import { z } from 'zod'
import { answerSchema } from './answer.js'
import { type Dialect, errorBody, errorSchema } from './dialect.js'
import { checked, invalid } from './fields.js'
import { oneNameEach, plainFields, understandPlain } from './plain.js'

const bodySchema = z.strictObject({ ...plainFields, return_embeddings: z.boolean().nullish() }).meta(oneNameEach)

export const jina: Dialect = {
  name: 'jina',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand(body) {
    const { return_embeddings: embeddings, ...given } = checked(bodySchema, body)
    if (embeddings) throw invalid('return_embeddings', 'a cross-encoder has no embeddings to return')
    // In Jina's request `truncation` is no sign of Voyage: documents are cut either way.
    const { truncation, ...rest } = given
    const understood = understandPlain({
      ...rest,
      return_documents: rest.return_documents ?? rest.returnDocuments ?? true,
      returnDocuments: undefined,
    })
    return { ...understood, wholeDocuments: truncation === false }
  },
  error: (error, requestId) => ({ detail: error.message, ...errorBody(error, requestId) }),
}
