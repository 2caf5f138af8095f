/** API keys: made once and shown once; Redis holds a hash. A key is `rk_<id>_<secret>`. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Redis } from 'ioredis'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { ServerKeys } from '../../shared/protocol/server-keys.js'

export const SCOPES = ['submit', 'read', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

const recordSchema = z.object({
  id: z.string(),
  name: z.string(),
  /** SHA-256 of the secret, which is random and long: nothing slower is needed. */
  hash: z.string(),
  scopes: z.array(z.enum(SCOPES)),
  /** Milliseconds since 1970; null: never. */
  createdAt: z.number(),
  expiresAt: z.number().nullable(),
  requestsPerMinute: z.number(),
  pairsPerMinute: z.number(),
  queuedPairs: z.number(),
  /** Added to the priority of each of its requests. */
  priority: z.number(),
  webhookSecret: z.string(),
})

export type ApiKey = z.output<typeof recordSchema>
export type NewApiKey = Omit<ApiKey, 'id' | 'hash' | 'createdAt' | 'webhookSecret'>

const FORM = /^rk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})$/
const SECRET_BYTES = 32
/** Uses are noted once a minute at most. */
const USED_EVERY_MS = 60_000

export class ApiKeys {
  readonly #redis: Redis
  readonly #keys: ServerKeys
  readonly #now: () => number
  readonly #used = new Map<string, number>()

  constructor(redis: Redis, keys: ServerKeys, now: () => number = Date.now) {
    this.#redis = redis
    this.#keys = keys
    this.#now = now
  }

  /** @returns the key itself, which nobody can find again, and its record */
  async create(wanted: NewApiKey): Promise<{ key: string; record: ApiKey }> {
    const id = randomBytes(6).toString('hex')
    const secret = randomBytes(SECRET_BYTES).toString('base64url')
    const webhookSecret = `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`
    const record: ApiKey = { id, hash: hashOf(secret), createdAt: this.#now(), webhookSecret, ...wanted }
    await this.#redis.hset(this.#keys.apiKeys, id, JSON.stringify(record))
    return { key: `rk_${id}_${secret}`, record }
  }

  /** Every key, the oldest first, with its last use in milliseconds since 1970. */
  async list(): Promise<(ApiKey & { lastUsedAt: number | null })[]> {
    const [records, used] = await Promise.all([
      this.#redis.hvals(this.#keys.apiKeys),
      this.#redis.hgetall(this.#keys.apiKeysUsed),
    ])
    return records
      .map((text) => recordSchema.parse(JSON.parse(text)))
      .sort((a, b) => a.createdAt - b.createdAt)
      .map((record) => ({ ...record, lastUsedAt: used[record.id] === undefined ? null : Number(used[record.id]) }))
  }

  async count(): Promise<number> {
    return this.#redis.hlen(this.#keys.apiKeys)
  }

  /** @returns false where there is no such key */
  async revoke(id: string): Promise<boolean> {
    await this.#redis.hdel(this.#keys.apiKeysUsed, id)
    return (await this.#redis.hdel(this.#keys.apiKeys, id)) === 1
  }

  /** A key by its id, as for webhooks; undefined where it was revoked. */
  async byId(id: string): Promise<ApiKey | undefined> {
    const text = await this.#redis.hget(this.#keys.apiKeys, id)
    return text === null ? undefined : recordSchema.parse(JSON.parse(text))
  }

  /** @throws RankmillError `unauthorized`, which does not say what is wrong with it */
  async check(key: string): Promise<ApiKey> {
    const [, id = '', secret = ''] = FORM.exec(key) ?? []
    const record = id === '' ? undefined : await this.byId(id)
    // Compared in any case, so that the time tells nothing of which ids there are.
    const given = Buffer.from(hashOf(secret), 'hex')
    const isRight = timingSafeEqual(given, record ? Buffer.from(record.hash, 'hex') : given)
    const now = this.#now()
    if (!record || !isRight || (record.expiresAt !== null && record.expiresAt <= now)) {
      throw new RankmillError('unauthorized', 'the API key is unknown, expired or revoked')
    }
    if (now - (this.#used.get(id) ?? 0) > USED_EVERY_MS) {
      this.#used.set(id, now)
      void this.#redis.hset(this.#keys.apiKeysUsed, id, now).catch(() => undefined)
    }
    return record
  }
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex')
}
