/** Voyage: `/v1/rerank` of its API. Source: docs.voyageai.com, reference/reranker-api, and the voyageai clients. */
import { z } from 'zod'
import { answerSchema, wholeAnswer } from './answer.js'
import { type Dialect, errorBody, errorSchema } from './dialect.js'
import { checked, countSchema, documentsSchema, documentText, modelSchema, querySchema, textsOf } from './fields.js'

const bodySchema = z.strictObject({
  query: querySchema,
  documents: documentsSchema,
  model: modelSchema.nullish(),
  top_k: countSchema.nullish(),
  return_documents: z.boolean().nullish(),
  truncation: z.boolean().nullish(),
})

export const voyage: Dialect = {
  name: 'voyage',
  body: bodySchema,
  reply: answerSchema,
  errorReply: errorSchema,
  understand(body) {
    const { query, documents, model, top_k: topK, ...given } = checked(bodySchema, body)
    return {
      request: { query, documents: textsOf(documents), model: model ?? undefined, topN: topK ?? undefined },
      wholeDocuments: given.truncation === false,
      answer: (result, said) =>
        wholeAnswer(result, said, {
          data: result.results.map((row) => ({
            index: row.index,
            relevance_score: row.relevance_score,
            ...(given.return_documents ? { document: documentText(row, documents) } : {}),
          })),
        }),
    }
  },
  error: (error, requestId) => ({ detail: error.message, ...errorBody(error, requestId) }),
}
