/** Requests whose callers do not wait: taken, looked up, awaited, cancelled, deleted, and followed to their end. */
import { randomUUID } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { RequestStatus, RerankClient } from '../../producer/client.js'
import { RankmillError } from '../../shared/errors.js'
import type { Logger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import { callerGone } from '../caller-gone.js'
import { errorBody, type Understood } from '../dialects/dialect.js'
import { laterAnswer } from '../dialects/plain.js'
import type { Caller } from '../keys/caller.js'
import type { Admission, CallerLimits } from '../keys/limits.js'
import { checkWhole, pairsOf, type RerankCalls } from '../rerank-calls.js'
import type { Preference } from '../routes/preference.js'
import type { Webhooks } from '../webhooks/webhooks.js'
import type { JobRecord, JobRecords } from './job-records.js'

export const jobSchema = z.looseObject({
  id: z.string(),
  object: z.literal('rerank.job'),
  status: z.enum(['waiting', 'running', 'completed', 'failed', 'cancelled']),
  created_at: z.int(),
  pairs: z.int(),
  result: z.looseObject({}).nullish(),
  error: z.looseObject({}).nullish(),
})

/** A job whose server may be gone is looked at this long after it came, and so often from then on. */
const LOOK_AGAIN_MS = 30_000
const SWEEP_MS = 2000
const SWEPT_AT_ONCE = 100
/** Of each `SWEEP_MS` at most. */
const SWEEPING_MS = 1000
/** A job whose request is not known may still be on its way into the queue; after so long it is lost. */
const LOST_AFTER_MS = 300_000
/** Jobs that one server follows to their end by itself, and of one caller; others are found by looking. */
const [MOST_FOLLOWED, MOST_FOLLOWED_OF_ONE] = [4000, 2000]

export interface JobParts {
  readonly client: RerankClient
  readonly calls: RerankCalls
  readonly limits: CallerLimits
  readonly records: JobRecords
  readonly webhooks: Webhooks
  readonly options: Options
  readonly log: Logger
  readonly now: () => number
}

export class JobCalls {
  readonly #parts: JobParts
  readonly #closing = new AbortController()
  readonly #followed = new Map<string, Promise<void>>()
  readonly #followedOf = new Map<string, number>()
  readonly #sweeper: NodeJS.Timeout
  #sweeping: Promise<void> | undefined

  constructor(parts: JobParts) {
    this.#parts = parts
    this.#sweeper = setInterval(() => {
      this.#sweeping ??= this.#sweep()
        .catch((error) => parts.log.debug({ err: error }, 'cannot look at jobs: trying again'))
        .finally(() => {
          this.#sweeping = undefined
        })
    }, SWEEP_MS).unref()
  }

  /** Takes a request, waits for it as long as the caller likes, and answers with it or with 202 and where it will be. */
  async start(
    request: FastifyRequest,
    reply: FastifyReply,
    understood: Understood,
    { waitMs, applied }: Preference,
    webhook: string | null = null,
  ): Promise<unknown> {
    const { caller } = request
    const record = await this.#submit(caller, understood, webhook, request.traceParent)
    if (applied !== undefined) reply.header('preference-applied', applied)
    if (waitMs > 0) {
      const result = await this.#await(record, waitMs, callerGone(reply))
      if (result) {
        const said = { id: record.id, created: Math.floor(record.createdAt / 1000) }
        return webhook === null && !request.url.startsWith('/v1/rerank/jobs')
          ? understood.answer(result, said)
          : this.#shown(record)
      }
    }
    reply.code(202).header('location', `/v1/rerank/jobs/${encodeURIComponent(record.id)}`)
    return this.#shown(record)
  }

  /**
   * A job as its caller sees it, after waiting for its end at most so long.
   *
   * @throws RankmillError `not_found`
   */
  async show(caller: Caller, id: string, waitMs = 0, signal?: AbortSignal): Promise<object> {
    const record = await this.#record(caller, id)
    if (waitMs > 0) await this.#await(record, waitMs, signal).catch(() => undefined)
    return this.#shown(record)
  }

  /** @returns the jobs, the newest first, and whether there are more @throws RankmillError `not_found` for a cursor that is none */
  async list(caller: Caller, limit: number, after?: string): Promise<{ jobs: object[]; hasMore: boolean }> {
    const { records } = this.#parts
    const cursor = after === undefined ? undefined : caller.ownId(after)
    const ids = await records.list(caller.owner, limit + 1, cursor)
    if (!ids) throw new RankmillError('not_found', `after: no job "${after}" is known`, { param: 'after' })
    const shown = await Promise.all(
      ids.slice(0, limit).map(async (id) => {
        const record = await records.find(id)
        return record && this.#shown(record, false).catch(() => undefined)
      }),
    )
    return { jobs: shown.filter((job) => job !== undefined), hasMore: ids.length > limit }
  }

  /** @throws RankmillError `not_found` */
  async cancel(caller: Caller, id: string): Promise<object> {
    const record = await this.#record(caller, id)
    await this.#parts.client.cancel(record.requestId)
    return this.#shown(record)
  }

  /** Cancels what is not done, and forgets the rest. @throws RankmillError `not_found` */
  async remove(caller: Caller, id: string): Promise<object> {
    const { client, records } = this.#parts
    const record = await this.#record(caller, id)
    await client.cancel(record.requestId).catch(() => false)
    // Before it is gone: whoever follows it may not have come to its end yet.
    await this.#tell(record)
    await client.forget([record.requestId])
    await this.#release(record)
    await records.remove(record.owner, record.requestId)
    return { id: record.id, object: 'rerank.job', deleted: true }
  }

  async close(): Promise<void> {
    clearInterval(this.#sweeper)
    this.#closing.abort(new RankmillError('closed', 'the server was closed'))
    await Promise.all([...this.#followed.values(), this.#sweeping])
  }

  async #submit(
    caller: Caller,
    understood: Understood,
    webhook: string | null,
    traceParent?: string,
  ): Promise<JobRecord> {
    const { client, calls, limits, records, options, now } = this.#parts
    const { request } = understood
    const id = understood.id ?? `job_${randomUUID().replaceAll('-', '')}`
    const record: JobRecord = {
      id,
      owner: caller.owner,
      requestId: caller.ownId(id),
      createdAt: now(),
      pairs: pairsOf(request),
      rawScores: understood.rawScores ?? false,
      wholeDocuments: understood.wholeDocuments ?? false,
      webhook,
    }
    const filled = await calls.fill(caller, request)
    const known = await records.find(record.requestId)
    if (webhook !== null && known && known.webhook !== webhook) throw otherWebhook(known)
    let admission: Admission = { priority: request.priority ?? 0, room: 1, release: async () => undefined }
    if (!known) {
      admission = await limits.admit(caller, id, record.pairs, admission.priority, options.requestTtlMs)
    }
    const isNew = await records.add(record, now() + LOOK_AGAIN_MS)
    const kept = isNew ? record : ((await records.find(record.requestId)) ?? record)
    try {
      if (webhook !== null && kept.webhook !== webhook) throw otherWebhook(kept)
      const input = { ...filled, id: record.requestId, priority: admission.priority, traceParent }
      const { room } = admission
      await client.submit({ ...input, returnDocuments: understood.returnsDocuments ?? false }, { room })
    } catch (error) {
      if (isNew) await records.remove(caller.owner, record.requestId)
      else await this.#closeUnknown(record.requestId).catch(() => undefined)
      await admission.release()
      throw error
    }
    this.#follow(kept)
    return kept
  }

  /** A job that is long over, asked for again and refused, is not to be told of once more. */
  async #closeUnknown(requestId: string): Promise<void> {
    const { client, records } = this.#parts
    if (!(await client.status(requestId).catch(undefinedWhereUnknown))) await records.close(requestId)
  }

  /** @returns undefined where it was not done in time @throws RankmillError what the request ended with */
  async #await(record: JobRecord, waitMs: number, signal?: AbortSignal) {
    const { client } = this.#parts
    try {
      const result = await client.result(record.requestId, { timeoutMs: waitMs, signal, leave: true })
      checkWhole(result, record.wholeDocuments)
      return result
    } catch (error) {
      if (error instanceof RankmillError && error.code === 'timeout') return undefined
      throw error
    }
  }

  async #record(caller: Caller, id: string): Promise<JobRecord> {
    const { records, client } = this.#parts
    const requestId = caller.ownId(id)
    const record = await records.find(requestId)
    if (record && record.owner === caller.owner) return record
    // A request that somebody waits for has no record, and can be asked for by its id all the same.
    const { submittedAt, pairs } = await client.status(requestId).catch((error) => {
      if (error instanceof RankmillError && error.code === 'not_found') {
        throw new RankmillError('not_found', `no job "${id}" is known`, { param: 'id' })
      }
      throw error
    })
    const { owner } = caller
    const unasked = { rawScores: false, wholeDocuments: false, webhook: null }
    return { id, owner, requestId, createdAt: submittedAt, pairs, ...unasked }
  }

  async #shown(record: JobRecord, withResult = true, status?: RequestStatus): Promise<object> {
    const { client } = this.#parts
    const { state, error } = status ?? (await client.status(record.requestId))
    const created = Math.floor(record.createdAt / 1000)
    const job = {
      id: record.id,
      object: 'rerank.job',
      status: state,
      created_at: created,
      pairs: record.pairs,
      ...(error ? errorBody(publicError(record, RankmillError.fromBody(error)), record.id) : {}),
    }
    if (state !== 'completed' || !(withResult || record.wholeDocuments)) return job
    const result = await client.result(record.requestId, { timeoutMs: 1000 })
    try {
      checkWhole(result, record.wholeDocuments)
    } catch (unread) {
      return { ...job, status: 'failed', ...errorBody(RankmillError.from(unread), record.id) }
    }
    return withResult ? { ...job, result: laterAnswer(result, { id: record.id, created }, record.rawScores) } : job
  }

  #follow(record: JobRecord): void {
    const { client, log } = this.#parts
    const { requestId, owner } = record
    const ofOwner = this.#followedOf.get(owner) ?? 0
    if (this.#followed.size >= MOST_FOLLOWED || ofOwner >= MOST_FOLLOWED_OF_ONE) return
    if (this.#followed.has(requestId)) return
    this.#followedOf.set(owner, ofOwner + 1)
    const following = client
      .result(requestId, { timeoutMs: Number.POSITIVE_INFINITY, signal: this.#closing.signal, leave: true })
      .then(
        () => true,
        // Every end but the server's own is an end of the job.
        () => !this.#closing.signal.aborted,
      )
      .then(async (isOver) => {
        if (isOver) await this.#end(record)
      })
      .catch((error) => log.debug({ err: error, job: requestId }, 'cannot close a job: looking again later'))
      .finally(() => {
        this.#followed.delete(requestId)
        const left = (this.#followedOf.get(owner) ?? 1) - 1
        if (left > 0) this.#followedOf.set(owner, left)
        else this.#followedOf.delete(owner)
      })
    this.#followed.set(requestId, following)
  }

  /** Looks at jobs that came long ago: their server may be gone. Doing it twice does no harm. */
  async #sweep(): Promise<void> {
    const { records, now } = this.#parts
    const until = performance.now() + SWEEPING_MS
    while (performance.now() < until && !this.#closing.signal.aborted) {
      const due = await records.due(now(), SWEPT_AT_ONCE)
      await Promise.all(due.map((requestId) => this.#lookAt(requestId)))
      if (due.length < SWEPT_AT_ONCE) return
    }
  }

  async #lookAt(requestId: string): Promise<void> {
    const { records, client, now } = this.#parts
    const record = await records.find(requestId)
    if (!record) return records.close(requestId)
    const state = (await client.status(requestId).catch(undefinedWhereUnknown))?.state
    const isOpen =
      state === undefined ? now() - record.createdAt < LOST_AFTER_MS : state === 'waiting' || state === 'running'
    if (isOpen) await records.lookAgain(requestId, now() + LOOK_AGAIN_MS)
    else await this.#end(record)
  }

  /** Tells whom it concerns, then forgets to look: a crash in between tells twice, with the same webhook id. */
  async #end(record: JobRecord): Promise<void> {
    await this.#tell(record)
    await this.#release(record)
    await this.#parts.records.close(record.requestId)
  }

  /** One event for each life of its request, however often its end is seen. */
  async #tell(record: JobRecord): Promise<void> {
    const { webhooks, client } = this.#parts
    const { owner, requestId, webhook: url } = record
    if (url === null) return
    const status = await client.status(requestId).catch(undefinedWhereUnknown)
    if (status?.state === 'waiting' || status?.state === 'running') return
    const data = (status ? await this.#shown(record, false, status) : lostJob(record)) as { status: string }
    const subject = `${requestId} ${status?.submittedAt ?? record.createdAt}`
    await webhooks.send({ owner, url, type: `rerank.job.${data.status}`, subject, data })
  }

  async #release(record: JobRecord): Promise<void> {
    await this.#parts.limits.release(record.owner, record.id)
  }
}

/** Its result expired before any server came to tell of it, or Redis lost it. */
function lostJob(record: JobRecord): object {
  const created = Math.floor(record.createdAt / 1000)
  const { id, pairs } = record
  const error = new RankmillError('request_lost', `job "${id}" is gone from Redis: how it ended is not known`)
  return { id, object: 'rerank.job', status: 'failed', created_at: created, pairs, ...errorBody(error, id) }
}

function otherWebhook({ id, webhook }: JobRecord): RankmillError {
  const known = webhook === null ? 'no webhook' : 'another webhook'
  return new RankmillError('conflict', `webhook: job "${id}" was submitted with ${known}`, { param: 'webhook' })
}

function undefinedWhereUnknown(error: unknown): undefined {
  if (error instanceof RankmillError && error.code === 'not_found') return undefined
  throw error
}

function publicError(record: JobRecord, error: RankmillError): RankmillError {
  if (record.requestId === record.id) return error
  return new RankmillError(error.code, error.message.replaceAll(record.requestId, record.id), error.details)
}
