/**
 * Scores that are known already, in Redis, shared by all workers. One hash for each model and query, one field a passage:
 * a request costs one HMGET, and small hashes are stored by Redis as compact lists.
 */
import { hash } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { Keys } from '../../shared/keys.js'

export interface KnownScore {
  readonly logit: number
  readonly truncated: boolean
}

/** What, beside the texts, a score depends on. */
export interface ScoringContext {
  readonly modelFingerprint: string
  readonly maxTokens: number
  readonly truncation: string
  readonly maxTokensPerDoc: number | null
}

/** float32 logit, then one byte: 1 where the document was truncated. */
const VALUE_BYTES = 5
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
    const { modelFingerprint, maxTokens, truncation, maxTokensPerDoc } = context
    const model = digest(JSON.stringify([1, modelFingerprint, maxTokens, truncation, maxTokensPerDoc])).toString(
      'base64url',
    )
    return this.#keys.scores(model, digest(query).toString('base64url'))
  }

  /** Known scores of passages, in their order. */
  async read(key: string, passages: readonly string[]): Promise<(KnownScore | undefined)[]> {
    if (this.#ttlMs === 0 || passages.length === 0) return passages.map(() => undefined)
    const values = await this.#redis.hmgetBuffer(key, ...passages.map(fieldOf))
    return values.map((value) =>
      value?.length === VALUE_BYTES ? { logit: value.readFloatLE(0), truncated: value[4] === 1 } : undefined,
    )
  }

  async write(key: string, passages: readonly string[], scores: readonly KnownScore[]): Promise<void> {
    if (this.#ttlMs === 0 || passages.length === 0) return
    const fields: Buffer[] = []
    passages.forEach((passage, i) => {
      const score = scores[i]
      if (!score) return
      const value = Buffer.alloc(VALUE_BYTES)
      value.writeFloatLE(score.logit, 0)
      value[4] = score.truncated ? 1 : 0
      fields.push(fieldOf(passage), value)
    })
    await this.#redis
      .pipeline()
      .hset(key, ...fields)
      .pexpire(key, this.#ttlMs)
      .exec()
  }
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer').subarray(0, 18)
}

function fieldOf(passage: string): Buffer {
  return hash('sha256', passage, 'buffer').subarray(0, FIELD_BYTES)
}
