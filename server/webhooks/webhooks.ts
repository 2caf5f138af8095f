/**
 * Telling others: events in a queue of their own, signed as Standard Webhooks has it, tried again with back-off, kept as
 * dead letters where nobody takes them. Every server delivers.
 */
import { createHash } from 'node:crypto'
import { DelayedError, type Job, Queue, UnrecoverableError, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import { Webhook } from 'standardwebhooks'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import type { Logger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import type { ServerKeys } from '../../shared/protocol/server-keys.js'
import type { HttpMetrics } from '../http-metrics.js'
import type { ApiKeys } from '../keys/api-keys.js'
import type { Caller } from '../keys/caller.js'
import { Delivery } from './delivery.js'
import { Receiver } from './receiver.js'

export interface WebhookEvent {
  readonly owner: string
  readonly url: string
  /** `rerank.job.completed`, `batch.failed`. */
  readonly type: string
  /** What it is about: one event of a type for each. */
  readonly subject: string
  readonly data: object
}

/** An event that nobody took. */
export interface DeadLetter {
  readonly id: string
  readonly type: string
  readonly url: string
  readonly attempts: number
  readonly reason: string
  /** Milliseconds since 1970. */
  readonly createdAt: number
}

interface WebhookJob extends WebhookEvent {
  readonly id: string
  /** ISO 8601. */
  readonly timestamp: string
}

const DAY_S = 86_400
const DELIVERED_KEPT = { age: DAY_S, count: 10_000 }
/** Dead letters that are read together. */
const DEAD_PAGE = 500
const AT_ONCE = 64
/** Of those to one receiver: one that never answers must not hold up what is for others. */
const AT_ONCE_TO_ONE = 16
const CLOSE_MS = 3000

export interface WebhookParts {
  /** For commands, and for the worker, whose commands wait while Redis is away. */
  readonly redis: Redis
  readonly workerRedis: Redis
  readonly keys: ServerKeys
  readonly apiKeys: ApiKeys
  readonly options: Options
  readonly metrics: HttpMetrics
  readonly log: Logger
}

export class Webhooks {
  readonly queue: Queue<WebhookJob>
  readonly #worker: Worker<WebhookJob>
  readonly #delivery: Delivery
  readonly #parts: WebhookParts
  /** By origin, those that something is under way to. */
  readonly #receivers = new Map<string, Receiver>()

  constructor(parts: WebhookParts) {
    const { redis, workerRedis, keys, options, metrics, log } = parts
    const { prefix } = options
    this.#parts = parts
    this.#delivery = new Delivery({ allow: options.webhookAllow, timeoutMs: options.webhookTimeoutMs })
    this.queue = new Queue(keys.webhookQueue, { connection: redis, prefix, skipVersionCheck: true })
    this.queue.on('error', () => undefined)
    this.#worker = new Worker<WebhookJob>(keys.webhookQueue, async (job, token) => this.#inTurn(job, token), {
      connection: workerRedis,
      prefix,
      concurrency: AT_ONCE,
      skipVersionCheck: true,
    })
    this.#worker.on('error', (error) => log.debug({ err: error }, 'the queue of webhooks'))
    this.#worker.on('completed', () => metrics.webhooks.inc({ outcome: 'delivered' }))
    this.#worker.on('failed', (_job, error) => {
      metrics.webhooks.inc({ outcome: 'failed' })
      log.warn({ reason: error.message }, 'a webhook was not taken')
    })
  }

  /**
   * Whether webhooks of a caller can go to an address.
   *
   * @throws RankmillError `invalid_request`
   */
  check(caller: Caller, url: string): void {
    this.#delivery.check(url)
    if (caller.key || this.#parts.options.webhookSecret !== '') return
    const message = 'webhook: this server has no secret to sign it with: set RANKMILL_WEBHOOK_SECRET, or use an API key'
    throw new RankmillError('invalid_request', message, { param: 'webhook' })
  }

  /** Queues an event; one of the same type about the same subject is queued once. */
  async send(event: WebhookEvent): Promise<void> {
    const { webhookAttempts, webhookBackoffMs, maxDeadLetters, deadLetterTtlMs } = this.#parts.options
    const id = `msg_${createHash('sha256').update(`${event.type} ${event.owner} ${event.subject}`).digest('hex').slice(0, 32)}`
    await this.queue.add(
      'webhook',
      { ...event, id, timestamp: new Date().toISOString() },
      {
        jobId: id,
        attempts: webhookAttempts,
        backoff: { type: 'exponential', delay: webhookBackoffMs, jitter: 0.5 },
        removeOnComplete: DELIVERED_KEPT,
        removeOnFail: { age: Math.ceil(deadLetterTtlMs / 1000), count: maxDeadLetters },
        stackTraceLimit: 0,
      },
    )
  }

  /** Events of a caller that nobody took, the newest first. */
  async dead({ owner }: Caller, limit: number): Promise<DeadLetter[]> {
    const { maxDeadLetters } = this.#parts.options
    // By id: while pages are read, new ones push the others on.
    const own = new Map<string, DeadLetter>()
    for (let from = 0; from < maxDeadLetters && own.size < limit; from += DEAD_PAGE) {
      const page = await this.queue.getFailed(from, from + DEAD_PAGE - 1)
      for (const job of page) {
        // One that was sent again meanwhile is gone.
        if (job?.data.owner !== owner || own.size === limit) continue
        const { attemptsMade, failedReason, timestamp } = job
        const { id, type, url } = job.data
        own.set(id, { id, type, url, attempts: attemptsMade, reason: failedReason, createdAt: timestamp })
      }
      if (page.length < DEAD_PAGE) break
    }
    return [...own.values()]
  }

  /** Tries a dead letter again. @throws RankmillError `not_found` */
  async resend({ owner }: Caller, id: string): Promise<void> {
    const job: Job<WebhookJob> | undefined = await this.queue.getJob(id)
    const unknown = () => new RankmillError('not_found', `no webhook "${id}" waits to be sent again`, { param: 'id' })
    if (!job || job.data.owner !== owner || !(await job.isFailed())) throw unknown()
    await job.retry('failed', { resetAttemptsMade: true, resetAttemptsStarted: true }).catch(async (error) => {
      // Somebody else was faster.
      if (!(await job.isFailed())) throw unknown()
      throw error
    })
  }

  async close(): Promise<void> {
    // BullMQ waits without a limit for a Redis that is away; what it had under way comes back by its lock.
    await within(this.#worker.close(), CLOSE_MS)
    await within(this.queue.close(), CLOSE_MS)
    this.#delivery.close()
  }

  /** One receiver has no more than its share of the deliveries; what is over that is put off, which is no try. */
  async #inTurn(job: Job<WebhookJob>, token: string | undefined): Promise<void> {
    const { origin } = new URL(job.data.url)
    const receiver = this.#receivers.get(origin) ?? new Receiver()
    this.#receivers.set(origin, receiver)
    if (receiver.underWay >= AT_ONCE_TO_ONE) {
      await job.moveToDelayed(Date.now() + receiver.putOff(performance.now()), token)
      throw new DelayedError()
    }
    const startedAt = performance.now()
    receiver.begin(startedAt)
    try {
      await this.#deliver(job.data)
    } finally {
      receiver.end(startedAt, performance.now())
      if (receiver.underWay === 0) this.#receivers.delete(origin)
    }
  }

  async #deliver({ id, owner, url, type, timestamp, data }: WebhookJob): Promise<void> {
    const secret =
      owner === 'open' ? this.#parts.options.webhookSecret : (await this.#parts.apiKeys.byId(owner))?.webhookSecret
    if (!secret) throw new UnrecoverableError('there is no secret to sign it with: the API key was revoked')
    const body = JSON.stringify({ type, timestamp, data })
    const now = new Date()
    const status = await this.#delivery.post(url, body, {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
      'webhook-signature': new Webhook(secret).sign(id, now, body),
    })
    if (status >= 200 && status < 300) return
    // Standard Webhooks: whoever answers so wants no more of them.
    if (status === 410) throw new UnrecoverableError('the receiver answered 410: it is gone')
    throw new Error(
      `the receiver answered ${status}${status >= 300 && status < 400 ? ', and redirects are not followed' : ''}`,
    )
  }
}
