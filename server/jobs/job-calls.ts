/** Requests whose callers do not wait: taken, looked up, awaited, cancelled, deleted, and followed to their end. */
import { randomUUID } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { RerankClient } from '../../producer/client.js'
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
/** Jobs that one server follows to their end by itself; others are found by looking. */
const MOST_FOLLOWED = 2000

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
    let admission: Admission = { priority: request.priority ?? 0, release: async () => undefined }
    if (!known) {
      admission = await limits.admit(caller, id, record.pairs, admission.priority, options.requestTtlMs)
    }
    const isNew = await records.add(record, now() + LOOK_AGAIN_MS)
    try {
      const input = { ...filled, id: record.requestId, priority: admission.priority, traceParent }
      await client.submit({ ...input, returnDocuments: understood.returnsDocuments ?? false })
    } catch (error) {
      if (isNew) await records.remove(caller.owner, record.requestId)
      await admission.release()
      throw error
    }
    const kept = isNew ? record : ((await records.find(record.requestId)) ?? record)
    this.#follow(kept)
    return kept
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

  async #shown(record: JobRecord, withResult = true): Promise<object> {
    const { client } = this.#parts
    const { state, error } = await client.status(record.requestId)
    const created = Math.floor(record.createdAt / 1000)
    const job = {
      id: record.id,
      object: 'rerank.job',
      status: state,
      created_at: created,
      pairs: record.pairs,
      ...(error ? errorBody(publicError(record, RankmillError.fromBody(error)), record.id) : {}),
    }
    if (state !== 'completed' || !withResult) return job
    const result = await client.result(record.requestId, { timeoutMs: 1000 })
    try {
      checkWhole(result, record.wholeDocuments)
    } catch (unread) {
      return { ...job, status: 'failed', ...errorBody(RankmillError.from(unread), record.id) }
    }
    return { ...job, result: laterAnswer(result, { id: record.id, created }, record.rawScores) }
  }

  #follow(record: JobRecord): void {
    const { client, log } = this.#parts
    const { requestId } = record
    if (this.#followed.size >= MOST_FOLLOWED || this.#followed.has(requestId)) return
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
      .finally(() => this.#followed.delete(requestId))
    this.#followed.set(requestId, following)
  }

  /** Looks at jobs that came long ago: their server may be gone. Doing it twice does no harm. */
  async #sweep(): Promise<void> {
    const { records, client, now } = this.#parts
    for (const requestId of await records.due(now(), SWEPT_AT_ONCE)) {
      const record = await records.find(requestId)
      const state = record && (await client.status(requestId).catch(endedWhereUnknown))?.state
      if (!record || state === undefined) await records.close(requestId)
      else if (state === 'waiting' || state === 'running') await records.lookAgain(requestId, now() + LOOK_AGAIN_MS)
      else await this.#end(record)
    }
  }

  /** Tells whom it concerns, then forgets to look: a crash in between tells twice, with the same webhook id. */
  async #end(record: JobRecord): Promise<void> {
    const { webhooks, records } = this.#parts
    if (record.webhook !== null) {
      const job = (await this.#shown(record, false)) as { status: string }
      const type = `rerank.job.${job.status}`
      await webhooks.send({ owner: record.owner, url: record.webhook, type, subject: record.requestId, data: job })
    }
    await this.#release(record)
    await records.close(record.requestId)
  }

  async #release(record: JobRecord): Promise<void> {
    await this.#parts.limits.release(record.owner, record.id)
  }
}

function endedWhereUnknown(error: unknown): undefined {
  if (error instanceof RankmillError && error.code === 'not_found') return undefined
  throw error
}

function publicError(record: JobRecord, error: RankmillError): RankmillError {
  if (record.requestId === record.id) return error
  return new RankmillError(error.code, error.message.replaceAll(record.requestId, record.id), error.details)
}
