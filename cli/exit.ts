/** Exit codes, and errors as a person reads them. */
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import { redisError, redisFault } from '../shared/redis/redis-errors.js'

export const EXIT = { done: 0, someFailed: 1, usage: 2, redis: 3, interrupted: 130 } as const

const USAGE: ReadonlySet<ErrorCode> = new Set([
  'invalid_request',
  'document_too_long',
  'too_many_documents',
  'invalid_configuration',
  'unknown_model',
  'invalid_model',
  'python_unavailable',
  'hub_denied',
  'unknown_corpus',
  'invalid_corpus',
  'invalid_line',
  'input_unreadable',
  'output_exists',
  'duplicate_custom_id',
  'output_changed',
  'output_in_use',
  'model_changed',
  'corpus_changed',
])
const REDIS: ReadonlySet<ErrorCode> = new Set([
  'redis_unavailable',
  'redis_full',
  'redis_read_only',
  'redis_denied',
  'redis_misconfigured',
])

export function exitCodeOf(cause: unknown): number {
  const { code } = classified(cause)
  if (code === 'cancelled') return EXIT.interrupted
  if (USAGE.has(code)) return EXIT.usage
  return REDIS.has(code) ? EXIT.redis : EXIT.someFailed
}

/** Two lines: what is wrong, with its code, and what to do about it. */
export function describeError(cause: unknown): string {
  const error = classified(cause)
  const stack = error.code === 'internal' && cause instanceof Error ? `\n${cause.stack}` : ''
  return `rankmill: ${error.code}: ${error.message}\n  ${error.advice}${stack}`
}

/** Calls of the system that only read. */
const READING = /^(read|scandir|stat|lstat|access|realpath|readlink|opendir)$/
const NOT_WRITABLE = /^(EROFS|ENOSPC|EDQUOT|EFBIG|EEXIST|ENOTEMPTY|EISDIR)$/

/** A file that cannot be read or written is the user's to mend, whoever met it first. */
export function classified(cause: unknown): RankmillError {
  if (redisFault(cause)) return redisError(cause)
  const { code = '', syscall = '', path } = (cause ?? {}) as NodeJS.ErrnoException
  if (cause instanceof RankmillError || !(cause instanceof Error) || path === undefined)
    return RankmillError.from(cause)
  // Whether an open was to read or to write, the error does not say; files to read have readers that do.
  const reading = READING.test(syscall) && !NOT_WRITABLE.test(code)
  return RankmillError.from(cause, reading ? 'input_unreadable' : 'output_unwritable')
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`)
}
