/**
 * Waits for answers: one subscription for any number of waiters. Events only make it quick; what counts is the result
 * key, which is looked at when somebody starts to wait, whenever the connection comes back, and every poll interval,
 * so that a lost event costs time and never the answer.
 */
import type { Redis } from 'ioredis'
import type { Logger } from '../shared/logger.js'
import type { Answer } from '../shared/protocol/job.js'
import type { Keys } from '../shared/protocol/keys.js'
import { openSubscriber } from '../shared/redis/connection.js'

interface Waiter {
  resolve(answer: Answer): void
}

/** Keys in one MGET: bounds the reply, which holds whole results. */
const READ_CHUNK = 64

export class Answers {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #pollIntervalMs: number
  readonly #log: Logger
  readonly #waiters = new Map<string, Set<Waiter>>()
  readonly #toRead = new Set<string>()
  #subscriber: Redis | undefined
  #subscribed: Promise<unknown> | undefined
  #poll: NodeJS.Timeout | undefined
  #reading: Promise<void> | undefined

  constructor(redis: Redis, keys: Keys, pollIntervalMs: number, log: Logger) {
    this.#redis = redis
    this.#keys = keys
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

  /** Resolves with the answer; rejects only when the signal says so, with its reason. */
  async wait(id: string, signal: AbortSignal): Promise<Answer> {
    signal.throwIfAborted()
    return new Promise<Answer>((resolve, reject) => {
      const waiter: Waiter = {
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
      this.#poll ??= setInterval(() => this.#readSoon(this.#waiters.keys()), this.#pollIntervalMs).unref()
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
