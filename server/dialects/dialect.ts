/**
 * What a dialect is: one peer's rerank request translated to ours, and our result and errors translated back. Nothing but
 * translation lives in this folder. Sources: the peers' API references and their clients' code; docs/api.md says which wins
 * where two disagree.
 */
import { z } from 'zod'
import type { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'

/** A request, understood: what to ask, and how to say the answer. */
export interface Understood {
  /** The caller's name for the request; undefined where it gave none. */
  readonly id?: string | undefined
  readonly request: Omit<RerankInput, 'id'>
  /** The caller wants an error rather than a document that was not read to its end. */
  readonly wholeDocuments?: boolean
  /** Rows come with their documents: where the answer is fetched later, the result has to hold them. */
  readonly returnsDocuments?: boolean
  /** Scores are logits. */
  readonly rawScores?: boolean
  /** The answer's body. */
  answer(result: RerankResult, said: Said): unknown
}

/** What an answer holds beside the result. */
export interface Said {
  /** The answer's id: the caller's own, or that of the HTTP request. */
  readonly id: string
  /** Seconds since 1970. */
  readonly created: number
}

export interface Dialect {
  readonly name: string
  /** The body's schema, for the OpenAPI document. */
  readonly body: z.ZodType
  /** The schemas of an answer and of an error, for the OpenAPI document. */
  readonly reply: z.ZodType
  readonly errorReply: z.ZodType
  /** @throws RankmillError `invalid_request` and its kin */
  understand(body: unknown): Understood
  /** @param body as far as it could be read */
  error(error: RankmillError, requestId: string, body: unknown): object
}

/** Rankmill's own error body, which is OpenAI's as well. */
export function errorBody(error: RankmillError, requestId: string): { error: Record<string, unknown> } {
  const { code, message, details } = error
  return {
    error: {
      message,
      type: error.status < 500 ? 'invalid_request_error' : 'server_error',
      code,
      ...(details.param === undefined ? {} : { param: details.param }),
      ...(details.index === undefined ? {} : { index: details.index }),
      ...(details.retryAfterMs === undefined ? {} : { retry_after_ms: details.retryAfterMs }),
      request_id: requestId,
    },
  }
}

export const errorSchema = z
  .looseObject({
    error: z.looseObject({
      code: z.union([z.string(), z.int()]).describe('stable: docs/errors.md; the HTTP status where a dialect has that'),
      message: z.string(),
      type: z.string(),
      param: z.string().optional().describe('the field at fault'),
      request_id: z.string(),
    }),
  })
  .describe('What went wrong')
