/** What is known of batches: their state, whose they are, and who runs them. */
import { randomBytes } from 'node:crypto'
import type { Redis } from 'ioredis'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { ServerKeys } from '../../shared/protocol/server-keys.js'
import { cursorPage } from '../files/files.js'

const ms = z.number().nullable()
const recordSchema = z.object({
  id: z.string(),
  owner: z.string(),
  endpoint: z.string(),
  inputFileId: z.string(),
  completionWindow: z.string(),
  metadata: z.record(z.string(), z.string()).nullable(),
  /** Fields of requests that do not give them. */
  defaults: z.record(z.string(), z.unknown()),
  webhook: z.string().nullable(),
  status: z.enum(['validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelled']),
  /** Milliseconds since 1970, here and below. */
  createdAt: z.number(),
  expiresAt: z.number(),
  inProgressAt: ms,
  finalizingAt: ms,
  endedAt: ms,
  total: z.number(),
  completed: z.number(),
  failed: z.number(),
  outputFileId: z.string().nullable(),
  errorFileId: z.string().nullable(),
  errors: z.array(
    z.object({ code: z.string(), message: z.string(), param: z.string().nullable(), line: z.number().nullable() }),
  ),
})

export type BatchRecord = z.output<typeof recordSchema>

/** A batch, and when somebody asked for it to be cancelled. */
export interface KnownBatch {
  readonly record: BatchRecord
  readonly cancelledAt: number | null
}

const BATCH_ID = /^batch_[0-9a-f]{32}$/

export class BatchRecords {
  readonly #redis: Redis
  readonly #keys: ServerKeys
  readonly #ttlMs: number

  /** @param ttlMs how long a batch is known after its time */
  constructor(redis: Redis, keys: ServerKeys, ttlMs: number) {
    this.#redis = redis
    this.#keys = keys
    this.#ttlMs = ttlMs
  }

  static newId(): string {
    return `batch_${randomBytes(16).toString('hex')}`
  }

  async add(record: BatchRecord): Promise<void> {
    const { id, owner, createdAt, expiresAt } = record
    const list = this.#keys.batches(owner)
    await this.#redis
      .multi()
      .hset(this.#keys.batch(id), 'record', JSON.stringify(record))
      .pexpire(this.#keys.batch(id), expiresAt - createdAt + this.#ttlMs)
      .zadd(list, createdAt, id)
      .pexpire(list, expiresAt - createdAt + this.#ttlMs)
      .zadd(this.#keys.openBatches, createdAt, `${owner} ${id}`)
      .exec()
  }

  /** @throws RankmillError `not_found`, for another's batch too */
  async find(owner: string, id: string): Promise<KnownBatch> {
    const known = BATCH_ID.test(id) ? await this.read(id) : undefined
    if (known && known.record.owner === owner) return known
    throw new RankmillError('not_found', `no batch "${id.slice(0, 80)}" is known`, { param: 'id' })
  }

  async read(id: string): Promise<KnownBatch | undefined> {
    const [record, cancelled] = await this.#redis.hmget(this.#keys.batch(id), 'record', 'cancelled')
    if (!record) return undefined
    return { record: recordSchema.parse(JSON.parse(record)), cancelledAt: cancelled ? Number(cancelled) : null }
  }

  /** An owner's batches, the newest first. @throws RankmillError `not_found` for a cursor that is none */
  async list(owner: string, limit: number, after?: string): Promise<{ batches: KnownBatch[]; hasMore: boolean }> {
    const list = this.#keys.batches(owner)
    const ids = await cursorPage(this.#redis, list, limit + 1, 'desc', after)
    const found = await Promise.all(ids.slice(0, limit).map(async (id) => ({ id, known: await this.read(id) })))
    const expired = found.filter(({ known }) => !known).map(({ id }) => id)
    if (expired.length > 0) await this.#redis.zrem(list, ...expired)
    return { batches: found.flatMap(({ known }) => known ?? []), hasMore: ids.length > limit }
  }

  /** Whoever runs it learns of it with the next sign of life. */
  async cancel(id: string, now: number): Promise<void> {
    await this.#redis.hsetnx(this.#keys.batch(id), 'cancelled', now)
  }

  /** Batches that have not ended, the oldest first. @param limit 0: all of them */
  async open(limit = 0): Promise<{ owner: string; id: string }[]> {
    const members = await this.#redis.zrange(this.#keys.openBatches, 0, String(limit - 1))
    return members.map((member) => {
      const [owner = '', id = ''] = member.split(' ')
      return { owner, id }
    })
  }

  /** Takes a batch that has ended, or is gone, off the list of those that have not. */
  async close(owner: string, id: string): Promise<void> {
    await this.#redis.zrem(this.#keys.openBatches, `${owner} ${id}`)
  }

  /** Whether a file is the input of a batch that has not ended. */
  async uses(owner: string, fileId: string): Promise<boolean> {
    for (const batch of await this.open()) {
      if (batch.owner !== owner) continue
      if ((await this.read(batch.id))?.record.inputFileId === fileId) return true
    }
    return false
  }
}

export function isEnded({ status }: Pick<BatchRecord, 'status'>): boolean {
  return status === 'completed' || status === 'failed' || status === 'expired' || status === 'cancelled'
}

/** A batch as OpenAI says it. */
export function batchObject({ record, cancelledAt }: KnownBatch) {
  const seconds = (time: number | null) => (time === null ? null : Math.floor(time / 1000))
  const endedAs = (status: BatchRecord['status']) => (record.status === status ? seconds(record.endedAt) : null)
  const isCancelling = cancelledAt !== null && !isEnded(record)
  return {
    id: record.id,
    object: 'batch',
    endpoint: record.endpoint,
    errors: record.errors.length === 0 ? null : { object: 'list', data: record.errors },
    input_file_id: record.inputFileId,
    completion_window: record.completionWindow,
    status: isCancelling ? 'cancelling' : record.status,
    output_file_id: record.outputFileId,
    error_file_id: record.errorFileId,
    created_at: seconds(record.createdAt),
    in_progress_at: seconds(record.inProgressAt),
    expires_at: seconds(record.expiresAt),
    finalizing_at: seconds(record.finalizingAt),
    completed_at: endedAs('completed'),
    failed_at: endedAs('failed'),
    expired_at: endedAs('expired'),
    cancelling_at: seconds(cancelledAt),
    cancelled_at: endedAs('cancelled'),
    request_counts: { total: record.total, completed: record.completed, failed: record.failed },
    metadata: record.metadata,
  }
}
