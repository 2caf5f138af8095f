/** Puts a request into the queue: noted first, then its jobs; safe to repeat at any point. */
import type { JobsOptions } from 'bullmq'
import { folderOf, requestPin } from '../shared/corpus/corpus-name.js'
import type { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'
import { candidateCount, isCorpusReference } from '../shared/protocol/documents.js'
import { fingerprintOf } from '../shared/protocol/fingerprint.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { jobIdOf } from '../shared/protocol/keys.js'
import { laneOf, priorityInLane } from '../shared/protocol/lanes.js'
import { describePool, encodedModel, firstModel, poolSuffix } from '../shared/protocol/pool.js'
import { bytesOf, type RerankRequest } from '../shared/protocol/request.js'
import { otherSize } from '../shared/redis/fleet-size.js'
import type { PoolQueues } from '../shared/redis/pool-queues.js'
import type { EndingRef, Interest, NewNote, Opened, RequestLife } from '../shared/redis/request-life.js'
import type { WorkerRegistry } from '../shared/redis/worker-registry.js'
import { partOf, partsOf } from './split.js'

/** Jobs in one addBulk: it is one pipeline, whose size is memory on both sides. */
const ADD_CHUNK = 32
const FAILED_JOBS_KEPT = { age: 7 * 86_400, count: 10_000 }
/** A part that is done may have to be scored again in another score space, and only its job has its content. */
const DONE_PARTS_KEPT = { age: 7 * 86_400 }

export interface SubmitOptions {
  /** A request of the same content that is under way will do as well. */
  readonly mayShare: boolean
  readonly interest: Interest
  /** Of the request, where it is known already: it takes as long as the documents. */
  readonly fingerprint?: string
  /** Up to which share of its bounds the request may fill its lane, above 0 to 1; default 1. */
  readonly room?: number | undefined
}

/** A request that somebody counts on. */
export interface Submitted {
  /** Under which the answer will come. */
  readonly id: string
  /** The one that was noted or joined (`Opened.life`); null where it was answered before. */
  readonly life: number | null
}

export class Submission {
  readonly #queues: PoolQueues
  readonly #life: RequestLife
  readonly #registry: WorkerRegistry
  readonly #corpora: CorpusShelves
  readonly #options: Options
  readonly #model: string | null
  readonly #shards: number
  /** Not noted yet. */
  readonly #queued: EndingRef[] = []

  /**
   * @param model of requests that name none; null: the fleet's default
   * @param shards of the fleet
   */
  constructor(
    queues: PoolQueues,
    life: RequestLife,
    registry: WorkerRegistry,
    corpora: CorpusShelves,
    options: Options,
    model: string | null,
    shards: number,
  ) {
    this.#queues = queues
    this.#life = life
    this.#registry = registry
    this.#corpora = corpora
    this.#options = options
    this.#model = model
    this.#shards = shards
  }

  /**
   * @throws RankmillError `conflict` (the id is another request's), `overloaded` (with `retryAfterMs`) or
   *   `too_many_documents` (no queue of this size could ever hold it)
   */
  async submit(request: RerankRequest, how: SubmitOptions): Promise<Submitted> {
    const note = this.#noteOf(request, how)
    const noted = await this.#life.note(note)
    switch (noted.state) {
      case 'answered':
        return { id: request.id, life: null }
      case 'pending':
        await this.#mend(request, noted.opened)
        return { id: request.id, life: noted.opened.life }
      case 'shared':
        if (await this.#life.partFrom(noted.id, noted.life, note.shares ?? '')) return this.submit(request, how)
        // Its producer may have died before it had queued it.
        return noted.queued
          ? { id: noted.id, life: noted.life }
          : this.submit({ ...request, id: noted.id }, { mayShare: false, interest: 'counted', room: how.room })
      case 'conflict':
        throw new RankmillError('conflict', `id: "${request.id}" was submitted before with other content`, {
          param: 'id',
        })
      case 'overloaded':
        throw await this.#overloaded(note, noted.pool, noted.jobs, noted.bytes)
      case 'too_large':
        throw this.#tooLarge(noted.jobs, noted.bytes)
      case 'other_shards':
        throw otherSize(`"${this.#options.queue}"`, noted.has, note.shards, 'it was changed while this was connected')
      case 'reopened':
        await this.#queues.remove(request.id, noted.before)
        break
      case 'new':
      case 'unqueued':
    }
    try {
      const all = Array.from({ length: noted.opened.parts }, (_, part) => part)
      await this.#add(request, noted.opened, all)
    } catch (error) {
      // Should this fail as well, whoever looks after lost requests finds the note.
      const { opened } = noted
      const isGone = await this.#life.withdraw(request.id, opened.generation, note.shares).catch(() => false)
      // Some of its jobs may be there, and nobody would take them where no worker is.
      if (isGone) await this.#queues.remove(request.id, opened).catch(() => undefined)
      throw error
    }
    // Nobody has to wait for this: where it is lost, the next one to submit the request adds jobs that are there already.
    this.#queuedSoon({ id: request.id, generation: noted.opened.generation, shared: note.shares ?? '' })
    return { id: request.id, life: noted.opened.life }
  }

  /** Notes that a request is queued, together with all whose jobs came into the queue in the same turn of the event loop. */
  #queuedSoon(request: EndingRef): void {
    this.#queued.push(request)
    if (this.#queued.length > 1) return
    process.nextTick(() => void this.#life.queued(this.#queued.splice(0)).catch(() => undefined))
  }

  /** Queues again what Redis has lost of a request whose jobs were all queued. */
  async #mend(request: RerankRequest, opened: Opened): Promise<void> {
    const missing = await this.#queues.missing(request.id, opened)
    if (missing.length === 0) return
    await this.#add(request, opened, missing)
  }

  async #add(request: RerankRequest, opened: Opened, parts: readonly number[]): Promise<void> {
    const queue = this.#queues.of(opened.pool, opened.lane)
    const corpus = opened.parts > 1 ? pinnedCorpus(request) : null
    // All parts read one version of it.
    const pinMs = this.#options.requestTtlMs
    const version = corpus === null ? undefined : await this.#corpora.pin(corpus, requestPin(request.id), pinMs)
    for (let first = 0; first < parts.length; first += ADD_CHUNK) {
      const jobs = parts
        .slice(first, first + ADD_CHUNK)
        .map((part) => partOf(request, opened, part, version))
        .map((data) => ({ name: 'rerank', data, opts: this.#jobOptions(data) }))
      // To make a pipeline costs more than to add a job.
      const [only] = jobs
      if (only && jobs.length === 1) {
        await queue.add(only.name, only.data, only.opts)
        continue
      }
      await queue.addBulk(jobs).catch(async (error: Error) => {
        // In a transaction a script that Redis has forgotten is not sent anew, and never would be; by itself it is.
        if (!error.message.startsWith('NOSCRIPT')) throw error
        for (const { name, data, opts } of jobs) await queue.add(name, data, opts)
      })
    }
  }

  #noteOf(
    request: RerankRequest,
    { mayShare, interest, fingerprint = fingerprintOf(request), room = 1 }: SubmitOptions,
  ): NewNote {
    const { maxJobPairs, requestTtlMs, resultTtlMs, maxQueuedJobs, maxQueuedBytes, unservedMs } = this.#options
    const model = request.model ?? this.#model
    const parts = partsOf(request, maxJobPairs)
    const bytes = bytesOf(request)
    // What fits into an empty lane is never too large for it.
    const bound = (most: number, own: number) => Math.max(Math.floor(most * room), Math.min(most, own))
    return {
      id: request.id,
      fingerprint,
      shares: mayShare ? `${fingerprint}-${request.priority}` : null,
      model: model === null ? null : encodedModel(model),
      poolSuffix: poolSuffix(request),
      fallbackModel: encodedModel(firstModel(this.#options.model)),
      lane: laneOf(request.priority),
      parts,
      pairs: candidateCount(request.documents),
      bytes,
      deadlineMs: request.deadlineMs,
      interest,
      requestTtlMs,
      resultTtlMs,
      maxQueuedJobs: bound(maxQueuedJobs, parts),
      maxQueuedBytes: bound(maxQueuedBytes, bytes),
      unservedMs,
      pinnedCorpus: parts > 1 ? pinnedCorpus(request) : null,
      shards: this.#shards,
    }
  }

  #jobOptions(job: RerankJob): JobsOptions {
    const { attempts, retryBackoffMs } = this.#options
    const priority = priorityInLane(job.priority)
    return {
      jobId: jobIdOf(job.requestId, job.generation, job.part),
      ...(priority > 0 ? { priority } : {}),
      attempts,
      backoff: { type: 'exponential', delay: retryBackoffMs, jitter: 0.5 },
      removeOnComplete: job.parts > 1 ? DONE_PARTS_KEPT : true,
      removeOnFail: FAILED_JOBS_KEPT,
      stackTraceLimit: 3,
    }
  }

  async #overloaded(
    { lane, maxQueuedJobs, maxQueuedBytes }: NewNote,
    pool: string,
    jobs: number,
    bytes: number,
  ): Promise<RankmillError> {
    const workers = await this.#registry.workers().catch(() => [])
    const rates = workers.flatMap(({ pools }) => pools.filter(({ name }) => name === pool))
    const jobsPerSecond = rates.reduce((sum, served) => sum + served.jobsPerSecond, 0)
    // Until a tenth of the queue has drained: sooner, the caller would only meet the bound again.
    const seconds = jobsPerSecond > 0 ? jobs / 10 / jobsPerSecond : 1
    const retryAfterMs = Math.round(Math.min(60, Math.max(1, seconds)) * 1000)
    const message =
      `the ${lane} lane of ${describePool(pool)} holds ${jobs} jobs of ${bytes} bytes, its bounds are ${maxQueuedJobs} ` +
      `(maxQueuedJobs) and ${maxQueuedBytes} (maxQueuedBytes): try again in ${retryAfterMs / 1000} s`
    return new RankmillError('overloaded', message, { retryAfterMs })
  }

  #tooLarge(jobs: number, bytes: number): RankmillError {
    const { maxQueuedJobs, maxQueuedBytes } = this.#options
    const message =
      `documents: the request is ${jobs} jobs of ${bytes} bytes, more than a lane may ever hold: ${maxQueuedJobs} ` +
      `(maxQueuedJobs) and ${maxQueuedBytes} (maxQueuedBytes)`
    return new RankmillError('too_many_documents', message, { param: 'documents' })
  }
}

/** The corpus of a request whose version has to be pinned if it is split: it names none. */
function pinnedCorpus({ documents }: RerankRequest): string | null {
  if (!isCorpusReference(documents) || documents.version !== null) return null
  return folderOf(documents.corpus) === undefined ? documents.corpus : null
}
