/** Exit codes, and errors as a person reads them. */
import { whyUnmade } from '../producer/batch/unwritable.js'
import { type ErrorCode, RankmillError } from '../shared/errors.js'
import { redisError, redisFault } from '../shared/redis/redis-errors.js'

export const EXIT = { done: 0, failed: 1, usage: 2, redis: 3, interrupted: 130 } as const

type Ending = Exclude<keyof typeof EXIT, 'done'>

/** How a command ends that an error ends; README.md says what the endings mean. */
const ENDINGS: Readonly<Record<ErrorCode, Ending>> = {
  invalid_request: 'usage',
  document_too_long: 'usage',
  too_many_documents: 'usage',
  unknown_model: 'usage',
  invalid_model: 'usage',
  unknown_corpus: 'usage',
  missing_documents: 'usage',
  corpus_changed: 'usage',
  invalid_corpus: 'usage',
  invalid_line: 'usage',
  duplicate_custom_id: 'usage',
  input_unreadable: 'usage',
  output_unwritable: 'usage',
  output_exists: 'usage',
  output_changed: 'usage',
  model_changed: 'usage',
  output_in_use: 'usage',
  python_unavailable: 'usage',
  quantization_failed: 'failed',
  export_failed: 'failed',
  reference_differs: 'failed',
  hub_denied: 'usage',
  hub_unavailable: 'failed',
  too_many_errors: 'failed',
  not_found: 'failed',
  conflict: 'usage',
  cancelled: 'interrupted',
  unauthorized: 'failed',
  forbidden: 'failed',
  method_not_allowed: 'failed',
  body_too_large: 'failed',
  headers_too_large: 'failed',
  request_timeout: 'failed',
  unsupported_media_type: 'failed',
  rate_limited: 'failed',
  too_many_files: 'failed',
  storage_failed: 'usage',
  deadline_exceeded: 'failed',
  timeout: 'failed',
  overloaded: 'failed',
  redis_unavailable: 'redis',
  redis_full: 'redis',
  redis_read_only: 'redis',
  redis_denied: 'redis',
  redis_misconfigured: 'redis',
  inference_failed: 'failed',
  out_of_memory: 'failed',
  worker_lost: 'failed',
  request_lost: 'failed',
  invalid_configuration: 'usage',
  closed: 'failed',
  internal: 'failed',
}

export function exitCodeOf(cause: unknown): number {
  return EXIT[ENDINGS[classified(cause).code]]
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
  if (reading) return RankmillError.from(cause, 'input_unreadable')
  return RankmillError.from(syscall === 'mkdir' ? whyUnmade(path, cause) : cause, 'output_unwritable')
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`)
}
