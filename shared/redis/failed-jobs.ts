/** Jobs that ended as failed, of all queues of all shards: by their request's id, or newest first; one in memory at a time. */
import type { Job, Queue } from 'bullmq'
import { RankmillError } from '../errors.js'
import { candidateCount } from '../protocol/documents.js'
import type { RerankJob } from '../protocol/job.js'
import { jobIdOf } from '../protocol/keys.js'
import { PoolQueues } from './pool-queues.js'
import { RequestLife } from './request-life.js'
import type { Shard, Shards } from './shards.js'

/** Where a job is, without its documents. */
export interface FailedJobRef {
  readonly queue: Queue<RerankJob>
  readonly id: string
}

/** A failed job in a line. */
export interface FailedJobSummary {
  /** The request's. */
  readonly id: string
  /** As 1/3. */
  readonly part: string
  /** ISO 8601. */
  readonly failed_at: string
  readonly attempts: number
  readonly documents: number
  readonly error: string
}

export function summaryOf(job: Job<RerankJob>): FailedJobSummary {
  return {
    id: job.data.requestId,
    part: `${job.data.part + 1}/${job.data.parts}`,
    failed_at: new Date(job.finishedOn ?? 0).toISOString(),
    attempts: job.attemptsMade,
    // A job that was put there by something else may hold anything.
    documents: job.data.documents === undefined ? 0 : candidateCount(job.data.documents),
    error: job.failedReason ?? '',
  }
}

/** Ids that one step of a search looks at. */
const SCANNED = 1000

/** Where a request's jobs are, failed and not. */
interface FailedShard {
  readonly redis: Shard['redis']
  readonly queues: PoolQueues
  readonly life: RequestLife
}

export class FailedJobs {
  readonly #fleet: Shards
  /** Of the shards that the fleet has had meanwhile. */
  readonly #known = new Map<Shard, FailedShard>()

  constructor(shards: Shards) {
    this.#fleet = shards
  }

  async close(): Promise<void> {
    await Promise.all([...this.#known.values()].map(({ queues }) => queues.close()))
  }

  #in(shard: Shard): FailedShard {
    const known = this.#known.get(shard)
    if (known) return known
    const { redis, keys } = shard
    const opened = { redis, queues: new PoolQueues(redis, keys), life: new RequestLife(redis, keys) }
    this.#known.set(shard, opened)
    return opened
  }

  #of(id: string): FailedShard {
    return this.#in(this.#fleet.of(id))
  }

  async count(): Promise<number> {
    const queues = await this.#all()
    const counts = await Promise.all(queues.map(({ redis, queue }) => redis.zcard(queue.toKey('failed'))))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** Newest first: names alone, about 100 bytes each. */
  async refs(offset = 0, limit = Number.POSITIVE_INFINITY): Promise<FailedJobRef[]> {
    const last = offset + limit - 1
    const refs = await Promise.all(
      (await this.#all()).map(async ({ redis, queue }) => {
        const end = Number.isFinite(last) ? last : -1
        const reply = await redis.zrevrange(queue.toKey('failed'), 0, end, 'WITHSCORES')
        return Array.from({ length: reply.length / 2 }, (_, i) => {
          const [id = '', at] = reply.slice(2 * i, 2 * i + 2)
          return { queue, id, at: Number(at) }
        })
      }),
    )
    return refs
      .flat()
      .sort((a, b) => b.at - a.at)
      .slice(offset, offset + limit)
  }

  /** Of one request: its parts' jobs that failed, first part first. */
  async *of(requestId: string): AsyncGenerator<Job<RerankJob>> {
    let found = false
    const { life, queues } = this.#of(requestId)
    const note = await life.read(requestId)
    for (let part = 0; note && part < note.parts; part++) {
      const queue = queues.of(note.pool, note.lane)
      const job = await this.load({ queue, id: jobIdOf(requestId, note.generation, part) })
      if (!job) continue
      found = true
      yield job
    }
    // Its note has expired, or the jobs are of an earlier generation: the names of failed jobs tell.
    if (!found) yield* this.#named(requestId)
  }

  /** As it is now; undefined where it is gone, or no failed job any more. */
  async load({ queue, id }: FailedJobRef): Promise<Job<RerankJob> | undefined> {
    const job = await queue.getJob(id)
    return job && (await job.isFailed()) ? job : undefined
  }

  /** Without loading it. @returns whether it was there, and failed */
  async remove({ queue, id }: FailedJobRef): Promise<boolean> {
    return (await queue.getJobState(id)) === 'failed' && (await queue.remove(id)) === 1
  }

  /**
   * Opens a request again: its scored parts are kept, and its jobs that failed are queued as the new generation's.
   *
   * @returns jobs that are queued again, and parts that are not kept: with some the request has to be submitted again
   * @throws RankmillError `not_found` where it is not kept, or not failed
   */
  async retry(id: string, requestTtlMs: number): Promise<{ readonly queued: number; readonly missing: number }> {
    const { life, queues } = this.#of(id)
    const before = await life.read(id)
    const reopened = before && (await life.retry(id, before.generation, requestTtlMs))
    if (!before || !reopened) {
      throw new RankmillError('not_found', `request "${id}" is not kept any more, or not failed: submit it again`, {
        param: 'ids',
      })
    }
    const { generation, submittedAt, done, contentOf } = reopened
    const queue = queues.of(before.pool, before.lane)
    const again: string[] = []
    for (let part = 0; part < before.parts; part++) {
      const job = await this.load({ queue, id: jobIdOf(id, contentOf, part) })
      if (!job?.id) continue
      const data: RerankJob = { ...job.data, generation, submittedAt, deadlineAt: null }
      await queue.add('rerank', data, { ...job.opts, jobId: jobIdOf(id, generation, part) })
      again.push(job.id)
    }
    const missing = before.parts - done.length - again.length
    if (missing <= 0) await life.queued([{ id, generation, shared: '' }])
    // Only now: should this process die before, they are what is tried again.
    for (const job of again) await queue.remove(job)
    return { queued: again.length, missing: Math.max(0, missing) }
  }

  async *#named(requestId: string): AsyncGenerator<Job<RerankJob>> {
    const pattern = `${encodeURIComponent(requestId).replaceAll('*', '\\*')}.*`
    const { redis, queues } = this.#of(requestId)
    for (const { queue } of await queues.all()) {
      let cursor = '0'
      const ids = new Set<string>()
      do {
        const [next, page] = await redis.zscan(queue.toKey('failed'), cursor, 'MATCH', pattern, 'COUNT', SCANNED)
        cursor = next
        for (let i = 0; i < page.length; i += 2) ids.add(page[i] ?? '')
      } while (cursor !== '0')
      for (const id of [...ids].sort()) {
        const job = await this.load({ queue, id })
        if (job?.data.requestId === requestId) yield job
      }
    }
  }

  async #all(): Promise<{ redis: Shard['redis']; queue: Queue<RerankJob> }[]> {
    const all = this.#fleet.all.map(async (shard) => {
      const { redis, queues } = this.#in(shard)
      return (await queues.all()).map(({ queue }) => ({ redis, queue }))
    })
    return (await Promise.all(all)).flat()
  }
}
