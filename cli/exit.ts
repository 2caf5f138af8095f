/** Exit codes, and errors as a person reads them. */
import { type ErrorCode, RankmillError } from '../shared/errors.js'

export const EXIT = { done: 0, someFailed: 1, usage: 2, redis: 3, interrupted: 130 } as const

const USAGE: ReadonlySet<ErrorCode> = new Set([
  'invalid_request',
  'document_too_long',
  'too_many_documents',
  'invalid_configuration',
  'unknown_model',
  'invalid_model',
  'python_unavailable',
  'unknown_corpus',
  'invalid_corpus',
])
const REDIS: ReadonlySet<ErrorCode> = new Set([
  'redis_unavailable',
  'redis_full',
  'redis_read_only',
  'redis_denied',
  'redis_misconfigured',
])

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof RankmillError)) return EXIT.someFailed
  if (USAGE.has(error.code)) return EXIT.usage
  return REDIS.has(error.code) ? EXIT.redis : EXIT.someFailed
}

/** Two lines: what is wrong, with its code, and what to do about it. */
export function describeError(cause: unknown): string {
  const error = RankmillError.from(cause)
  const stack = error.code === 'internal' && cause instanceof Error ? `\n${cause.stack}` : ''
  return `rankmill: ${error.code}: ${error.message}\n  ${error.advice}${stack}`
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`)
}
