/** Uploaded files, and those that batches write: a record in Redis, a content in the storage. Each has one owner. */
import { randomBytes } from 'node:crypto'
import type { Redis } from 'ioredis'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { Logger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import type { ServerKeys } from '../../shared/protocol/server-keys.js'
import type { Storage } from './storage.js'

const recordSchema = z.object({
  id: z.string(),
  owner: z.string(),
  bytes: z.number(),
  /** Milliseconds since 1970. */
  createdAt: z.number(),
  expiresAt: z.number(),
  filename: z.string(),
  purpose: z.enum(['batch', 'batch_output']),
})

export type FileRecord = z.output<typeof recordSchema>

/** What a file's id looks like: nothing else is ever looked up, and none can name a path. */
const FILE_ID = /^file-[0-9a-f]{32}$/
const SWEEP_MS = 30_000
const UNSWEPT_MS = 7 * 86_400_000
const SWEPT_AT_ONCE = 100

export class Files {
  readonly storage: Storage
  readonly #redis: Redis
  readonly #keys: ServerKeys
  readonly #options: Options
  readonly #now: () => number
  readonly #sweeper: NodeJS.Timeout

  constructor(redis: Redis, keys: ServerKeys, storage: Storage, options: Options, log: Logger, now: () => number) {
    this.storage = storage
    this.#redis = redis
    this.#keys = keys
    this.#options = options
    this.#now = now
    this.#sweeper = setInterval(() => {
      void this.sweep().catch((error) => log.debug({ err: error }, 'cannot remove expired files: trying again'))
    }, SWEEP_MS).unref()
  }

  static newId(): string {
    return `file-${randomBytes(16).toString('hex')}`
  }

  /** @throws RankmillError `too_many_files` where the owner has no room for another */
  async checkRoom(owner: string): Promise<void> {
    const { maxFiles } = this.#options
    const count = await this.#redis.zcard(this.#keys.files(owner))
    if (count < maxFiles) return
    throw new RankmillError('too_many_files', `${count} files are kept, the bound is ${maxFiles}`)
  }

  /** Notes a file whose content is stored; done twice, the later one counts. @param ttlMs default: the option `fileTtlMs` */
  async add(file: Omit<FileRecord, 'createdAt' | 'expiresAt'>, ttlMs = this.#options.fileTtlMs): Promise<FileRecord> {
    const createdAt = this.#now()
    const record: FileRecord = { ...file, createdAt, expiresAt: createdAt + ttlMs }
    await this.#redis
      .multi()
      // The sweep removes it with its content; should none ever run again, it goes by itself.
      .set(this.#keys.file(record.id), JSON.stringify(record), 'PX', ttlMs + UNSWEPT_MS)
      .zadd(this.#keys.files(record.owner), createdAt, record.id)
      .zadd(this.#keys.filesByExpiry, record.expiresAt, record.id)
      .exec()
    return record
  }

  /** @throws RankmillError `not_found`, for another's file too */
  async find(owner: string, id: string, param = 'id'): Promise<FileRecord> {
    const text = FILE_ID.test(id) ? await this.#redis.get(this.#keys.file(id)) : null
    const record = text === null ? undefined : recordSchema.parse(JSON.parse(text))
    if (record && record.owner === owner && record.expiresAt > this.#now()) return record
    throw new RankmillError('not_found', `${param}: no file "${id.slice(0, 80)}" is known`, { param })
  }

  /** An owner's files, by creation. @throws RankmillError `not_found` for a cursor that is none */
  async list(
    owner: string,
    limit: number,
    order: 'asc' | 'desc',
    after?: string,
  ): Promise<{ files: FileRecord[]; hasMore: boolean }> {
    const ids = await cursorPage(this.#redis, this.#keys.files(owner), limit + 1, order, after)
    const texts = ids.length === 0 ? [] : await this.#redis.mget(ids.slice(0, limit).map((id) => this.#keys.file(id)))
    const files = texts.filter((text) => text !== null).map((text) => recordSchema.parse(JSON.parse(text)))
    return { files, hasMore: ids.length > limit }
  }

  /** The content first: a record without one would be a promise that cannot be kept. */
  async remove({ id, owner }: Pick<FileRecord, 'id' | 'owner'>): Promise<void> {
    await this.storage.remove(id)
    await this.#redis
      .multi()
      .del(this.#keys.file(id))
      .zrem(this.#keys.files(owner), id)
      .zrem(this.#keys.filesByExpiry, id)
      .exec()
  }

  /** Removes what has expired; any server may, and twice does no harm. */
  async sweep(): Promise<void> {
    const ids = await this.#redis.zrangebyscore(this.#keys.filesByExpiry, 0, this.#now(), 'LIMIT', 0, SWEPT_AT_ONCE)
    for (const id of ids) {
      const text = await this.#redis.get(this.#keys.file(id))
      if (text === null) await this.#redis.zrem(this.#keys.filesByExpiry, id)
      else await this.remove(recordSchema.parse(JSON.parse(text)))
    }
  }

  close(): void {
    clearInterval(this.#sweeper)
    this.storage.close()
  }
}

/** A file as OpenAI says it. */
export function fileObject({ id, bytes, createdAt, expiresAt, filename, purpose }: FileRecord) {
  const seconds = (ms: number) => Math.floor(ms / 1000)
  return {
    id,
    object: 'file',
    bytes,
    created_at: seconds(createdAt),
    expires_at: seconds(expiresAt),
    filename,
    purpose,
    status: 'processed',
  }
}

/** Members of a sorted set after one of them. @throws RankmillError `not_found` */
export async function cursorPage(
  redis: Redis,
  key: string,
  limit: number,
  order: 'asc' | 'desc',
  after: string | undefined,
): Promise<string[]> {
  let start = 0
  if (after !== undefined) {
    const rank = await (order === 'asc' ? redis.zrank(key, after) : redis.zrevrank(key, after))
    if (rank === null)
      throw new RankmillError('not_found', `after: "${after.slice(0, 80)}" is not known`, { param: 'after' })
    start = rank + 1
  }
  const end = start + limit - 1
  return order === 'asc' ? redis.zrange(key, start, String(end)) : redis.zrevrange(key, start, end)
}
