/**
 * Scores that are known already, in Redis, shared by all workers. One hash for each model and query, one field a passage:
 * a request costs one HMGET, and small hashes are stored by Redis as compact lists.
 */
import { hash } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { Keys } from '../../shared/keys.js'
import type { LongDocuments, Window } from '../../shared/request.js'
import type { WindowRule } from '../tokenize/pair-encoder.js'

/** A document's score, and what there is to say of it. */
export interface KnownScore {
  readonly logit: number
  readonly truncated: boolean
  /** The score is of some of the document's sentences. */
  readonly snippet?: true
  /** The window that won, and how many there were. */
  readonly window?: Window & { readonly count: number }
}

/** What, beside the texts, a score depends on. */
export interface ScoringContext {
  readonly modelFingerprint: string
  readonly maxTokens: number
  readonly truncation: string
  readonly maxTokensPerDoc: number | null
  /** The mode, with what else the mode depends on. */
  readonly longDocuments: LongDocuments | { readonly windows: WindowRule }
}

/** float32 logit and one byte of flags; where a window won, its index, start and end and the number of windows. */
const VALUE_BYTES = 5
const WINDOW_VALUE_BYTES = VALUE_BYTES + 16
const TRUNCATED = 1
const SNIPPET = 2
/** 96 bits tell passages of one query apart. */
const FIELD_BYTES = 12

export class ScoreCache {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #ttlMs: number

  constructor(redis: Redis, keys: Keys, ttlMs: number) {
    this.#redis = redis
    this.#keys = keys
    this.#ttlMs = ttlMs
  }

  /** The key under which a query's scores are kept; it changes whenever a score could. */
  keyOf(context: ScoringContext, query: string): string {
    const { modelFingerprint, maxTokens, truncation, maxTokensPerDoc, longDocuments } = context
    const model = digest(
      JSON.stringify([2, modelFingerprint, maxTokens, truncation, maxTokensPerDoc, longDocuments]),
    ).toString('base64url')
    return this.#keys.scores(model, digest(query).toString('base64url'))
  }

  /** Known scores of passages, in their order. */
  async read(key: string, passages: readonly string[]): Promise<(KnownScore | undefined)[]> {
    if (this.#ttlMs === 0 || passages.length === 0) return passages.map(() => undefined)
    const values = await this.#redis.hmgetBuffer(key, ...passages.map(fieldOf))
    return values.map((value) => (value === null ? undefined : unpack(value)))
  }

  async write(key: string, passages: readonly string[], scores: readonly KnownScore[]): Promise<void> {
    if (this.#ttlMs === 0 || passages.length === 0) return
    const fields: Buffer[] = []
    passages.forEach((passage, i) => {
      const score = scores[i]
      if (!score) return
      fields.push(fieldOf(passage), pack(score))
    })
    await this.#redis
      .pipeline()
      .hset(key, ...fields)
      .pexpire(key, this.#ttlMs)
      .exec()
  }
}

function pack({ logit, truncated, snippet, window }: KnownScore): Buffer {
  const value = Buffer.alloc(window ? WINDOW_VALUE_BYTES : VALUE_BYTES)
  value.writeFloatLE(logit, 0)
  value[4] = (truncated ? TRUNCATED : 0) | (snippet ? SNIPPET : 0)
  const numbers = window ? [window.index, window.start, window.end, window.count] : []
  for (const [i, number] of numbers.entries()) value.writeUInt32LE(number, VALUE_BYTES + 4 * i)
  return value
}

function unpack(value: Buffer): KnownScore | undefined {
  if (value.length !== VALUE_BYTES && value.length !== WINDOW_VALUE_BYTES) return undefined
  const flags = value[4] ?? 0
  const at = (i: number) => value.readUInt32LE(VALUE_BYTES + 4 * i)
  return {
    logit: value.readFloatLE(0),
    truncated: (flags & TRUNCATED) !== 0,
    ...(flags & SNIPPET ? { snippet: true } : {}),
    ...(value.length === WINDOW_VALUE_BYTES
      ? { window: { index: at(0), start: at(1), end: at(2), count: at(3) } }
      : {}),
  }
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer').subarray(0, 18)
}

function fieldOf(passage: string): Buffer {
  return hash('sha256', passage, 'buffer').subarray(0, FIELD_BYTES)
}
