/** What is known of asynchronous jobs beyond their requests: whose they are, when they came, whom to tell. */
import type { Redis } from 'ioredis'
import { z } from 'zod'
import type { ServerKeys } from '../../shared/protocol/server-keys.js'

const recordSchema = z.object({
  /** The caller's name for it. */
  id: z.string(),
  owner: z.string(),
  /** Its name in the queue. */
  requestId: z.string(),
  /** Milliseconds since 1970. */
  createdAt: z.number(),
  pairs: z.number(),
  rawScores: z.boolean(),
  wholeDocuments: z.boolean(),
  webhook: z.string().nullable(),
})

/** Each is looked at again sooner than this. */
const LATEST_MS = 300_000

export type JobRecord = z.output<typeof recordSchema>

export class JobRecords {
  readonly #redis: Redis
  readonly #keys: ServerKeys
  readonly #ttlMs: number

  /** @param ttlMs how long a job is known: as long as its request may wait, and its result is kept */
  constructor(redis: Redis, keys: ServerKeys, ttlMs: number) {
    this.#redis = redis
    this.#keys = keys
    this.#ttlMs = ttlMs
  }

  /** Notes a job, to be looked at again at a time. @returns false where it is known already */
  async add(record: JobRecord, lookAgainAt: number): Promise<boolean> {
    const key = this.#keys.job(record.requestId)
    const isNew = (await this.#redis.set(key, JSON.stringify(record), 'PX', this.#ttlMs, 'NX')) === 'OK'
    const list = this.#keys.jobs(record.owner)
    if (isNew) {
      await this.#redis
        .multi()
        .zadd(list, record.createdAt, record.requestId)
        .zremrangebyscore(list, 0, record.createdAt - this.#ttlMs)
        .pexpire(list, this.#ttlMs)
        .exec()
    }
    await this.#redis.zadd(this.#keys.openJobs, lookAgainAt, record.requestId)
    return isNew
  }

  async find(requestId: string): Promise<JobRecord | undefined> {
    const text = await this.#redis.get(this.#keys.job(requestId))
    return text === null ? undefined : recordSchema.parse(JSON.parse(text))
  }

  async remove(owner: string, requestId: string): Promise<void> {
    await this.#redis
      .multi()
      .del(this.#keys.job(requestId))
      .zrem(this.#keys.jobs(owner), requestId)
      .zrem(this.#keys.openJobs, requestId)
      .exec()
  }

  /** Names in the queue of an owner's jobs, the newest first, after one of them. @returns undefined where that is unknown */
  async list(owner: string, limit: number, after?: string): Promise<string[] | undefined> {
    const list = this.#keys.jobs(owner)
    if (after === undefined) return this.#redis.zrevrange(list, 0, limit - 1)
    const rank = await this.#redis.zrevrank(list, after)
    return rank === null ? undefined : this.#redis.zrevrange(list, rank + 1, rank + limit)
  }

  /** Jobs that were to be looked at by now, and those that a clock which was set back would keep for longer than is ever said. */
  async due(now: number, limit: number): Promise<string[]> {
    const due = await this.#redis.zrangebyscore(this.#keys.openJobs, 0, now, 'LIMIT', 0, limit)
    if (due.length > 0) return due
    return this.#redis.zrangebyscore(this.#keys.openJobs, `(${now + LATEST_MS}`, '+inf', 'LIMIT', 0, limit)
  }

  async lookAgain(requestId: string, at: number): Promise<void> {
    await this.#redis.zadd(this.#keys.openJobs, 'XX', at, requestId)
  }

  async close(requestId: string): Promise<void> {
    await this.#redis.zrem(this.#keys.openJobs, requestId)
  }
}
