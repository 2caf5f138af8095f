/**
 * Waits for answers: one subscription for any number of waiters. Events only make it quick; what counts is the result
 * key, which is looked at when somebody starts to wait, whenever the connection comes back, and every poll interval,
 * so that a lost event costs time and never the answer.
 */
import type { Redis } from 'ioredis'
import { type ErrorBody, RankmillError } from '../shared/errors.js'
import type { Logger } from '../shared/logger.js'
import { type Answer, ERROR_HEAD } from '../shared/protocol/job.js'
import type { Keys } from '../shared/protocol/keys.js'
import { openSubscriber } from '../shared/redis/connection.js'
import type { RequestLife } from '../shared/redis/request-life.js'

interface Waiter {
  readonly since: number
  resolve(answer: Answer): void
}

/** Keys in one MGET: bounds the reply, which holds whole results. */
const READ_CHUNK = 64
/** Whether Redis still knows a request is asked for those that wait for so many poll intervals, and so often. */
const LOST_LOOK_POLLS = 5

export class Answers {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #life: RequestLife
  readonly #pollIntervalMs: number
  readonly #log: Logger
  readonly #waiters = new Map<string, Set<Waiter>>()
  readonly #toRead = new Set<string>()
  #subscriber: Redis | undefined
  #subscribed: Promise<unknown> | undefined
  #poll: NodeJS.Timeout | undefined
  #reading: Promise<void> | undefined
  #lookedForLostAt = 0
  #looksForLost = false

  constructor(redis: Redis, keys: Keys, life: RequestLife, pollIntervalMs: number, log: Logger) {
    this.#redis = redis
    this.#keys = keys
    this.#life = life
    this.#pollIntervalMs = pollIntervalMs
    this.#log = log
  }

  /** How many requests are awaited. */
  get size(): number {
    return this.#waiters.size
  }

  /** The answer as it stands, or undefined. */
  async read(id: string): Promise<Answer | undefined> {
    const text = await this.#redis.get(this.#keys.result(id))
    return text === null ? undefined : (JSON.parse(text) as Answer)
  }

  /** How it was answered, without reading a result. */
  async outcome(id: string): Promise<ErrorBody | 'completed' | undefined> {
    const key = this.#keys.result(id)
    const head = await this.#redis.getrange(key, 0, ERROR_HEAD.length - 1)
    if (head !== ERROR_HEAD) return head === '' ? undefined : 'completed'
    const answer = await this.read(id)
    return answer && 'error' in answer ? answer.error : undefined
  }

  /** Resolves with the answer; rejects only when the signal says so, with its reason. */
  async wait(id: string, signal: AbortSignal): Promise<Answer> {
    signal.throwIfAborted()
    return new Promise<Answer>((resolve, reject) => {
      const waiter: Waiter = {
        since: performance.now(),
        resolve: (answer) => {
          signal.removeEventListener('abort', stop)
          resolve(answer)
        },
      }
      const stop = () => {
        this.#remove(id, waiter)
        reject(signal.reason)
      }
      signal.addEventListener('abort', stop, { once: true })
      const waiters = this.#waiters.get(id)
      if (waiters) waiters.add(waiter)
      else this.#waiters.set(id, new Set([waiter]))
      this.#poll ??= setInterval(() => this.#look(), this.#pollIntervalMs).unref()
      // Subscribe first, then look: an answer written in between is seen by one or the other.
      this.#subscribe().then(
        () => this.#readSoon([id]),
        (error) => this.#log.debug({ err: error }, 'the subscription to results ended'),
      )
    })
  }

  close(): void {
    clearInterval(this.#poll)
    this.#poll = undefined
    this.#waiters.clear()
    this.#subscriber?.disconnect()
  }

  #look(): void {
    this.#readSoon(this.#waiters.keys())
    const now = performance.now()
    const lookMs = LOST_LOOK_POLLS * this.#pollIntervalMs
    if (this.#looksForLost || now - this.#lookedForLostAt < lookMs) return
    this.#lookedForLostAt = now
    this.#looksForLost = true
    this.#endLost(now - lookMs)
      .catch((error) => this.#log.debug({ err: error }, 'cannot look for lost requests: trying again'))
      .finally(() => {
        this.#looksForLost = false
      })
  }

  /** Ends waits for what nobody will answer: Redis has forgotten the request, or its answer. */
  async #endLost(since: number): Promise<void> {
    const ids = [...this.#waiters].filter(([, waiters]) => [...waiters].some((waiter) => waiter.since < since))
    for (let first = 0; first < ids.length; first += READ_CHUNK) {
      for (const id of await this.#life.lost(ids.slice(first, first + READ_CHUNK).map(([id]) => id))) {
        const error = new RankmillError('request_lost', `request "${id}" was lost: Redis knows it no more`)
        this.#settle(id, { error: error.toBody(), generation: 0 })
      }
    }
  }

  #remove(id: string, waiter: Waiter): void {
    const waiters = this.#waiters.get(id)
    waiters?.delete(waiter)
    if (waiters?.size === 0) this.#waiters.delete(id)
    this.#stopWhenIdle()
  }

  #stopWhenIdle(): void {
    if (this.#waiters.size > 0) return
    clearInterval(this.#poll)
    this.#poll = undefined
  }

  /** Resolves once subscribed; while Redis is away, the connection and its subscription come back by themselves. */
  #subscribe(): Promise<unknown> {
    if (this.#subscribed) return this.#subscribed
    const subscriber = openSubscriber(this.#redis, 'rankmill-answers')
    subscriber.on('message', (_channel: string, id: string) => {
      if (this.#waiters.has(id)) this.#readSoon([id])
    })
    // Whatever was published while the connection was gone has been missed.
    subscriber.on('ready', () => this.#readSoon(this.#waiters.keys()))
    this.#subscriber = subscriber
    this.#subscribed = subscriber.subscribe(this.#keys.doneChannel)
    return this.#subscribed
  }

  /** Reads answers, all that were asked for by then in few commands, one reading at a time. */
  #readSoon(ids: Iterable<string>): void {
    for (const id of ids) this.#toRead.add(id)
    if (this.#toRead.size === 0) return
    this.#reading ??= Promise.resolve()
      .then(() => this.#readAll())
      .catch((error) => this.#log.debug({ err: error }, 'cannot read results: trying again'))
      .finally(() => {
        this.#reading = undefined
      })
  }

  async #readAll(): Promise<void> {
    while (this.#toRead.size > 0) {
      const ids: string[] = []
      for (const id of this.#toRead) {
        this.#toRead.delete(id)
        if (this.#waiters.has(id)) ids.push(id)
        if (ids.length === READ_CHUNK) break
      }
      if (ids.length === 0) continue
      const texts = await this.#redis.mget(ids.map((id) => this.#keys.result(id)))
      texts.forEach((text, i) => {
        const id = ids[i]
        if (text !== null && id !== undefined) this.#settle(id, JSON.parse(text) as Answer)
      })
    }
  }

  #settle(id: string, answer: Answer): void {
    const waiters = this.#waiters.get(id)
    this.#waiters.delete(id)
    this.#stopWhenIdle()
    for (const waiter of waiters ?? []) waiter.resolve(answer)
  }
}
