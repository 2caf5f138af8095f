/** From an understood request to its result: who may, how urgent, under which name, and what becomes of it when nobody waits. */
import { randomUUID } from 'node:crypto'
import type { RerankClient } from '../producer/client.js'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'
import { candidateCount, type Documents } from '../shared/protocol/documents.js'
import { fullName } from '../shared/protocol/pool.js'
import type { RerankInput } from '../shared/protocol/request.js'
import type { RerankResult } from '../shared/protocol/result.js'
import { AnswerTimes } from './answer-times.js'
import type { Understood } from './dialects/dialect.js'
import type { HttpMetrics } from './http-metrics.js'
import type { Caller } from './keys/caller.js'
import type { CallerLimits } from './keys/limits.js'
import type { ModelNames } from './model-names.js'

/** What the workers serve is asked at most so often. */
const SERVED_MS = 2000
/** Of how many answers the pace of this server is judged. */
const PACE_ANSWERS = 64
const UNKNOWN_PACE_MS = 100
const LONGEST_RETRY_MS = 60_000
/** Share of the places that are for all; the rest is for keys with fewer requests than that waiting. */
const [SHARED_PLACES, FEW_WAITING] = [0.9, 8]
/** A request that is waited for is counted as under way for so long at most after its time. */
const GRACE_MS = 60_000

export interface CallsParts {
  readonly client: RerankClient
  readonly limits: CallerLimits
  readonly models: ModelNames
  readonly metrics: HttpMetrics
  readonly options: Options
  readonly now: () => number
}

export class RerankCalls {
  readonly #parts: CallsParts
  readonly times: AnswerTimes
  #waiting = 0
  /** Of those that wait, by caller. */
  readonly #waitingOf = new Map<string, number>()
  #served: { readonly names: Promise<readonly string[]>; readonly at: number } | undefined

  constructor(parts: CallsParts) {
    this.#parts = parts
    this.times = new AnswerTimes(parts.now)
  }

  /**
   * Asks and waits. A caller that goes away cancels its request, unless others wait for the same.
   *
   * @param signal aborted when the caller goes away
   * @throws RankmillError what the library says of it, `rate_limited`, or `overloaded` where too many wait already
   */
  async ask(
    caller: Caller,
    { request, id, wholeDocuments }: Understood,
    signal: AbortSignal,
    traceParent?: string,
  ): Promise<RerankResult> {
    const { client, limits, options, metrics } = this.#parts
    if (this.#isFull(caller)) throw this.#full()
    const startedAt = performance.now()
    this.#count(caller, 1)
    metrics.waiting.set(this.#waiting)
    try {
      const filled = await this.fill(caller, request)
      await this.#refuseUnserved(filled.model)
      const name = id ?? randomUUID()
      const ttlMs = (request.deadlineMs ?? options.waitTimeoutMs) + GRACE_MS
      const admission = await limits.admit(caller, name, pairsOf(request), request.priority ?? 0, ttlMs)
      try {
        const named = id === undefined ? {} : { id: caller.ownId(id) }
        const input = { ...filled, ...named, priority: admission.priority, traceParent }
        const result = await client.rerank(input, { signal, room: admission.room }).catch((error) => {
          if (signal.aborted) throw new RankmillError('cancelled', 'the caller went away')
          throw error
        })
        checkWhole(result, wholeDocuments)
        return result
      } finally {
        await admission.release()
      }
    } finally {
      this.#count(caller, -1)
      metrics.waiting.set(this.#waiting)
      this.times.add(performance.now() - startedAt)
    }
  }

  /** A request as it goes to the queue: models and corpora under the names that they have there. */
  async fill(caller: Caller, request: Understood['request']): Promise<RerankInput> {
    const { models, options } = this.#parts
    const { documents } = request
    const isPrivate = caller.key !== undefined && options.scoreCacheScope === 'key'
    return {
      ...request,
      ...(isPrivate ? { cacheSpace: caller.owner } : {}),
      model: await models.resolve(request.model, () => this.servedModels()),
      ...('corpus' in documents
        ? { documents: { ...documents, corpus: caller.ownCorpus(documents.corpus) } }
        : { documents }),
    } as RerankInput
  }

  /** Names of the models that live workers serve, each once. */
  async servedModels(): Promise<readonly string[]> {
    const { client, now } = this.#parts
    if (!this.#served || now() - this.#served.at > SERVED_MS) {
      const names = client.workers().then((workers) => [...new Set(workers.flatMap((worker) => worker.models))])
      this.#served = { names, at: now() }
      names.catch(() => {
        this.#served = undefined
      })
    }
    return this.#served.names
  }

  /**
   * Who waits for an answer is told at once that nobody will give one; jobs and batches wait for a worker. Where there is no
   * worker at all, one may be starting.
   */
  async #refuseUnserved(model: string | undefined): Promise<void> {
    if (model === undefined) return
    const served = await this.servedModels()
    if (served.length === 0 || served.includes(fullName(model))) return
    const message = `model: "${model}" is served by no worker; served: ${served.join(', ')}`
    throw new RankmillError('unknown_model', message, { param: 'model' })
  }

  /** The last places are for who has few, so that no key keeps all others out. */
  #isFull({ owner, key }: Caller): boolean {
    const { maxWaitingRequests } = this.#parts.options
    const hasFew = !key || (this.#waitingOf.get(owner) ?? 0) < FEW_WAITING
    return this.#waiting >= (hasFew ? maxWaitingRequests : Math.ceil(SHARED_PLACES * maxWaitingRequests))
  }

  #count({ owner }: Caller, change: 1 | -1): void {
    this.#waiting += change
    const own = (this.#waitingOf.get(owner) ?? 0) + change
    if (own > 0) this.#waitingOf.set(owner, own)
    else this.#waitingOf.delete(owner)
  }

  /** Until a tenth of those that wait are answered, at the pace of the last ones. */
  #full(): RankmillError {
    const { options } = this.#parts
    const each = this.times.between(PACE_ANSWERS) ?? UNKNOWN_PACE_MS
    const retryAfterMs = Math.round(Math.min(LONGEST_RETRY_MS, Math.max(1000, (this.#waiting / 10) * each)))
    const message = `${this.#waiting} requests wait at this server, its bound is ${options.maxWaitingRequests}`
    return new RankmillError('overloaded', message, { retryAfterMs })
  }
}

export function pairsOf({ documents }: Pick<RerankInput, 'documents'>): number {
  return candidateCount(documents as Documents)
}

/** @throws RankmillError `document_too_long` where the caller wanted all of every document to be read */
export function checkWhole(result: RerankResult, wholeDocuments: boolean | undefined): void {
  const { truncated } = result.usage
  if (!wholeDocuments || truncated === 0) return
  const message = `documents: ${truncated} of them were longer than "${result.model}" reads, and the request allows no truncation`
  throw new RankmillError('document_too_long', message, { param: 'documents' })
}
