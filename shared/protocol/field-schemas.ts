/** What ids and texts have to be, wherever a request has them. */
import { z } from 'zod'
import type { ErrorCode } from '../errors.js'

const SURROGATE = 'holds a lone surrogate, which is not valid Unicode text'
export const MAX_ID_CHARACTERS = 256
export const idSchema = z
  .string()
  .min(1, 'must not be empty')
  .max(MAX_ID_CHARACTERS, `must have at most ${MAX_ID_CHARACTERS} characters`)
  .refine((id) => id.isWellFormed(), SURROGATE)

/** UTF-8 length over the limit? `length` alone decides it for nearly all texts. */
function isLongerThan(text: string, bytes: number): boolean {
  return text.length * 3 > bytes && Buffer.byteLength(text) > bytes
}

/** Whether `textSchema` would take it. */
export function isText(value: unknown, limit: number): value is string {
  return typeof value === 'string' && !isLongerThan(value, limit) && value.isWellFormed()
}

export function textSchema(limit: number, code: ErrorCode) {
  return z
    .string()
    .refine((text) => !isLongerThan(text, limit), {
      error: (issue) => `must have at most ${limit} bytes, got ${Buffer.byteLength(String(issue.input))}`,
      params: { code },
    })
    .refine((text) => text.isWellFormed(), SURROGATE)
}
