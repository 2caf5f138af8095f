/**
 * The one table of errors. Every error that a user can meet has a stable code here, the HTTP status it maps to,
 * whether trying the same thing again can help, and a sentence that says what to do. docs/errors.md is generated
 * from it (a test checks that they agree).
 */
export const ERRORS = {
  invalid_request: {
    status: 400,
    retryable: false,
    advice: 'Correct the field that the message names.',
  },
  document_too_long: {
    status: 400,
    retryable: false,
    advice: 'Cut the document into passages, or raise --max-document-bytes.',
  },
  too_many_documents: {
    status: 400,
    retryable: false,
    advice: 'Send fewer documents in one request, or raise --max-documents.',
  },
  unknown_model: {
    status: 422,
    retryable: false,
    advice: 'Name a model that the workers serve; `rankmill models ls` lists those at hand.',
  },
  invalid_model: {
    status: 422,
    retryable: false,
    advice: '`rankmill models check PATH` names what is missing or inconsistent in the folder.',
  },
  unknown_corpus: {
    status: 404,
    retryable: false,
    advice:
      'Store the corpus first: `rankmill corpus put NAME FILE.jsonl`; `rankmill corpus ls` lists those there are.',
  },
  missing_documents: {
    status: 422,
    retryable: false,
    advice: 'The corpus lacks the ids that the message lists: store them, leave them out, or say `missing: "skip"`.',
  },
  corpus_changed: {
    status: 409,
    retryable: false,
    advice: 'Name the current version, or none; pin a version for as long as it is needed.',
  },
  invalid_corpus: {
    status: 422,
    retryable: false,
    advice:
      'Build it again: `rankmill corpus build FILE -o FOLDER`; `rankmill corpus show` says whether it can be read.',
  },
  invalid_line: {
    status: 400,
    retryable: false,
    advice: 'Correct the line that the message names: one JSON object in UTF-8, no longer than --max-line-bytes.',
  },
  duplicate_custom_id: {
    status: 400,
    retryable: false,
    advice: 'Give every line a custom_id of its own.',
  },
  input_unreadable: {
    status: 400,
    retryable: false,
    advice: 'Correct the file that the message names and run the same command again: it goes on where it stopped.',
  },
  output_unwritable: {
    status: 507,
    retryable: true,
    advice:
      'Make room, or name a file in a folder that you may write to, and run the same command again: it goes on where it stopped.',
  },
  output_exists: {
    status: 409,
    retryable: false,
    advice: 'Choose another output, or add --overwrite to begin anew (--force for models).',
  },
  output_changed: {
    status: 409,
    retryable: false,
    advice: 'Put the output back as the run left it and run the same command again, or begin anew with --overwrite.',
  },
  model_changed: {
    status: 409,
    retryable: false,
    advice:
      'Start workers with the model that the run began with and run the same command again; or go on with the other one (--allow-model-change), or begin anew (--overwrite).',
  },
  output_in_use: {
    status: 409,
    retryable: true,
    advice: 'Wait for the other run to end, or choose another output.',
  },
  python_unavailable: {
    status: 500,
    retryable: false,
    advice:
      'Install Python 3.11 or newer with the packages that the message names, and say where it is with --python or RANKMILL_PYTHON.',
  },
  quantization_failed: {
    status: 422,
    retryable: false,
    advice:
      'Take the fp32 file of a cross-encoder as `optimum-cli export onnx` writes it; the message says what is wrong.',
  },
  export_failed: {
    status: 422,
    retryable: false,
    advice:
      'Export the model with another tool (`optimum-cli export onnx --task text-classification`) and add the folder that it writes.',
  },
  reference_differs: {
    status: 422,
    retryable: false,
    advice: 'Nothing was put in place: report the model, with the pair that the message names.',
  },
  hub_denied: {
    status: 403,
    retryable: false,
    advice: "Accept the model's terms on its page, and set HF_TOKEN to a token that may read it.",
  },
  hub_unavailable: {
    status: 503,
    retryable: true,
    advice:
      'Run the same command again later: it goes on where it stopped. HF_ENDPOINT names a mirror; a folder needs no hub.',
  },
  too_many_errors: {
    status: 422,
    retryable: false,
    advice:
      'Look at the errors in the output; run again with a higher --max-errors to go on, then with --retry-failed.',
  },
  not_found: {
    status: 404,
    retryable: false,
    advice: 'The request was never submitted here, or its result has expired: submit it again.',
  },
  conflict: {
    status: 409,
    retryable: false,
    advice: 'The id belongs to a request with other content: choose another id, or none.',
  },
  cancelled: {
    status: 409,
    retryable: false,
    advice: 'The request was cancelled before it was done: submit it under another id if it is wanted after all.',
  },
  unauthorized: {
    status: 401,
    retryable: false,
    advice:
      'Send `Authorization: Bearer KEY` with a key that `rankmill keys create` made and that is neither expired nor revoked.',
  },
  forbidden: {
    status: 403,
    retryable: false,
    advice: 'Use a key that has the scope that the message names: `rankmill keys create --scope`.',
  },
  method_not_allowed: {
    status: 405,
    retryable: false,
    advice: 'Use one of the methods that the `Allow` header names.',
  },
  body_too_large: {
    status: 413,
    retryable: false,
    advice:
      'Send less at once, or upload a file and start a batch; --max-body-bytes and --max-file-bytes are the bounds.',
  },
  headers_too_large: {
    status: 431,
    retryable: false,
    advice: 'Send shorter headers: all of them together have 16 KiB.',
  },
  request_timeout: {
    status: 408,
    retryable: true,
    advice: 'Send the request faster, or raise --body-timeout-ms.',
  },
  unsupported_media_type: {
    status: 415,
    retryable: false,
    advice:
      'Send JSON with `Content-Type: application/json`; files as `multipart/form-data`, corpora as `application/x-ndjson`.',
  },
  rate_limited: {
    status: 429,
    retryable: true,
    advice: 'Wait for the time that `Retry-After` names; the limits are those of the API key.',
  },
  too_many_files: {
    status: 409,
    retryable: false,
    advice: 'Delete files that are no longer needed, or raise --max-files.',
  },
  storage_failed: {
    status: 503,
    retryable: true,
    advice: 'Check the folder or bucket that --data-dir or --files names, and its room and permissions.',
  },
  deadline_exceeded: {
    status: 504,
    retryable: true,
    advice: 'Add workers, or give the request more time.',
  },
  timeout: {
    status: 504,
    retryable: true,
    advice: 'The request is still queued or running: ask for its result later, or check that workers are alive.',
  },
  overloaded: {
    status: 429,
    retryable: true,
    advice: 'Wait for the time that the error names, or add workers.',
  },
  redis_unavailable: {
    status: 503,
    retryable: true,
    advice:
      'Start Redis where --redis or REDIS_URL says; where neither is given, `rankmill up` starts one for its folder.',
  },
  redis_full: {
    status: 503,
    retryable: true,
    advice: 'Give Redis more memory, remove corpora, or keep the corpus in a file: `rankmill corpus build`.',
  },
  redis_read_only: {
    status: 503,
    retryable: true,
    advice: 'After a failover this passes; else name the primary, or make room on the disk that Redis saves to.',
  },
  redis_denied: {
    status: 503,
    retryable: false,
    advice: 'Correct user and password in REDIS_URL, or grant the user what docs/redis.md lists.',
  },
  redis_misconfigured: {
    status: 503,
    retryable: false,
    advice: 'Correct the Redis setting that the message names; `rankmill doctor` shows all of them.',
  },
  inference_failed: {
    status: 500,
    retryable: false,
    advice: 'The model cannot score the document at the index that the message names: leave it out, and report it.',
  },
  out_of_memory: {
    status: 503,
    retryable: true,
    advice: 'Lower --max-batch-tokens or --sessions, or give the worker more memory.',
  },
  worker_lost: {
    status: 503,
    retryable: true,
    advice: 'The job took down or stalled its worker too often: look at it with `rankmill failed show ID`.',
  },
  request_lost: {
    status: 503,
    retryable: true,
    advice: 'Its producer died before it was queued whole, or Redis lost a part of it: submit it again.',
  },
  invalid_configuration: {
    status: 400,
    retryable: false,
    advice: 'Correct the option that the message names; `--help` gives its unit, bounds and default.',
  },
  closed: {
    status: 503,
    retryable: true,
    advice: 'The client or worker was closed: make a new one.',
  },
  internal: {
    status: 500,
    retryable: true,
    advice: 'This is a defect in Rankmill: please report it with the message and the log.',
  },
} as const satisfies Record<string, { status: number; retryable: boolean; advice: string }>

export type ErrorCode = keyof typeof ERRORS

/** What an error carries beyond its code and message. */
export interface ErrorDetails {
  /** The field or option at fault, as a path: `documents.3.text`. */
  param?: string
  /** Milliseconds after which a retry has a chance (overloaded). */
  retryAfterMs?: number
  /** The document's index in the request (inference_failed). */
  index?: number
}

/** An error as it is stored, printed and sent. */
export interface ErrorBody extends ErrorDetails {
  code: ErrorCode
  message: string
}

/** The only error class that leaves Rankmill's public functions. */
export class RankmillError extends Error {
  override readonly name = 'RankmillError'
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.details = details
  }

  get status(): number {
    return ERRORS[this.code].status
  }

  /** Whether the same call can succeed later without a change. */
  get retryable(): boolean {
    return ERRORS[this.code].retryable
  }

  get advice(): string {
    return ERRORS[this.code].advice
  }

  toBody(): ErrorBody {
    return { code: this.code, message: this.message, ...this.details }
  }

  static fromBody(body: ErrorBody): RankmillError {
    const { code, message, ...details } = body
    return new RankmillError(code in ERRORS ? code : 'internal', message, details)
  }

  /** Wraps anything thrown; a RankmillError passes through unchanged. */
  static from(cause: unknown, code: ErrorCode = 'internal'): RankmillError {
    if (cause instanceof RankmillError) return cause
    const message = cause instanceof Error ? cause.message : String(cause)
    // What ioredis throws carries what was sent: passwords, texts.
    return new RankmillError(code, message, {}, cause instanceof Error && 'command' in cause ? {} : { cause })
  }
}
