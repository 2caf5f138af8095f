/** Puts a request into the queue: remembered first, then its jobs; safe to repeat at any point. */
import type { Job, JobsOptions } from 'bullmq'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'
import { candidateCount } from '../shared/protocol/documents.js'
import { fingerprintOf } from '../shared/protocol/fingerprint.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { jobIdOf } from '../shared/protocol/keys.js'
import { type Lane, laneOf, priorityInLane } from '../shared/protocol/lanes.js'
import type { RerankRequest } from '../shared/protocol/request.js'
import type { LaneQueues } from '../shared/redis/lane-queues.js'
import type { Scripts } from '../shared/redis/scripts.js'
import { splitRequest } from './split.js'

/** What is kept beside the fingerprint, for status and cancellation. */
export interface RequestMeta {
  readonly lane: Lane
  readonly parts: number
  readonly pairs: number
  readonly submittedAt: number
  readonly deadlineAt: number | null
}

/** Jobs in one addBulk: it is one pipeline, whose size is memory on both sides. */
const ADD_CHUNK = 32
const FAILED_JOBS_KEPT = { age: 7 * 86_400, count: 10_000 }

export class Submission {
  readonly #queues: LaneQueues
  readonly #scripts: Scripts
  readonly #options: Options
  readonly #now: () => number

  constructor(queues: LaneQueues, scripts: Scripts, options: Options, now: () => number) {
    this.#queues = queues
    this.#scripts = scripts
    this.#options = options
    this.#now = now
  }

  /**
   * @param mayShare whether a request of the same content that is under way will do as well
   * @returns the id under which the answer will come
   * @throws RankmillError `conflict` (the id is another request's) or `overloaded` (with `retryAfterMs`)
   */
  async submit(request: RerankRequest, mayShare = false): Promise<string> {
    const { maxJobPairs, resultTtlMs } = this.#options
    const jobs = splitRequest(request, maxJobPairs, this.#now(), resultTtlMs)
    const wanted = laneOf(request.priority)
    const meta: RequestMeta = {
      lane: wanted,
      parts: jobs.length,
      pairs: candidateCount(request.documents),
      submittedAt: jobs[0]?.submittedAt ?? 0,
      deadlineAt: jobs[0]?.deadlineAt ?? null,
    }
    const fingerprint = fingerprintOf(request)
    const shares = mayShare ? `${fingerprint}-${request.priority}` : null
    const note = { id: request.id, fingerprint, lane: wanted, meta: JSON.stringify(meta), shares }
    const [outcome, depth, before, shared = request.id] = await this.#scripts.remember(note, this.#options)
    switch (outcome) {
      case 'answered':
        return request.id
      case 'shared':
        return this.submit({ ...request, id: shared })
      case 'conflict':
        throw new RankmillError('conflict', `id: "${request.id}" was submitted before with other content`, {
          param: 'id',
        })
      case 'overloaded':
        throw await this.#overloaded(wanted, depth)
      case 'reopened':
        await this.removeJobs(request.id, before, jobs.length)
        break
      case 'pending':
        // It may have lost its producer between the note and the jobs, or Redis may have lost a part of them: BullMQ
        // ignores jobs that it has, so those that are in none of its lists have to go first.
        await this.#removeStray(request.id, { ...meta, lane: before })
        break
      case 'new':
    }
    // A priority is no part of what a request is: one that is pending stays in its lane.
    const queue = this.#queues.of(outcome === 'pending' ? before : wanted)
    for (let i = 0; i < jobs.length; i += ADD_CHUNK) {
      await queue.addBulk(
        jobs.slice(i, i + ADD_CHUNK).map((data) => ({ name: 'rerank', data, opts: this.#jobOptions(data) })),
      )
    }
    return request.id
  }

  /** Takes the jobs of a request out of the queue; those that run stay. */
  async removeJobs(id: string, lane: Lane, parts: number): Promise<void> {
    const queue = this.#queues.of(lane)
    await Promise.all(Array.from({ length: parts }, (_, part) => queue.remove(jobIdOf(id, part)).catch(() => 0)))
  }

  async #removeStray(id: string, meta: RequestMeta): Promise<void> {
    const states = await Promise.all(
      (await this.jobs(id, meta)).map(async (job) => ({ job, state: await job.getState() })),
    )
    await Promise.all(states.map(({ job, state }) => (state === 'unknown' ? job.remove().catch(() => 0) : 0)))
  }

  /** The queue's entries of a request, as far as they are still there. */
  async jobs(id: string, { lane, parts }: RequestMeta): Promise<Job<RerankJob>[]> {
    const queue = this.#queues.of(lane)
    const jobs = await Promise.all(Array.from({ length: parts }, (_, part) => queue.getJob(jobIdOf(id, part))))
    return jobs.filter((job) => job !== undefined)
  }

  #jobOptions(job: RerankJob): JobsOptions {
    const { attempts, retryBackoffMs } = this.#options
    const priority = priorityInLane(job.priority)
    return {
      jobId: jobIdOf(job.requestId, job.part),
      ...(priority > 0 ? { priority } : {}),
      attempts,
      backoff: { type: 'exponential', delay: retryBackoffMs, jitter: 0.5 },
      removeOnComplete: true,
      removeOnFail: FAILED_JOBS_KEPT,
      stackTraceLimit: 3,
    }
  }

  async #overloaded(lane: Lane, depth: number): Promise<RankmillError> {
    const workers = await this.#scripts.workers()
    const jobsPerSecond = workers.reduce((sum, info) => sum + info.jobsPerSecond, 0)
    // Until a tenth of the queue has drained: sooner, the caller would only meet the bound again.
    const seconds = jobsPerSecond > 0 ? depth / 10 / jobsPerSecond : 1
    const retryAfterMs = Math.round(Math.min(60, Math.max(1, seconds)) * 1000)
    const message = `the ${lane} lane of the queue holds ${depth} jobs, its bound is ${this.#options.maxQueuedJobs}: try again in ${retryAfterMs / 1000} s`
    return new RankmillError('overloaded', message, { retryAfterMs })
  }
}
