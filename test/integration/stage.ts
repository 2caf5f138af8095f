/** What integration tests stand on: a real Redis under a prefix of the test's own, and whatever was started, stopped. */
import { randomBytes } from 'node:crypto'
import { resolve } from 'node:path'
import { Redis } from 'ioredis'
import { afterEach, inject } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import { type Options, type OptionsInput, resolveOptions } from '../../shared/options.js'
import { type Lane, queueName } from '../../shared/protocol/lanes.js'
import { plainPool } from '../../shared/protocol/pool.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'

/** Scores with a tiny random model: real inference in a millisecond. */
export const TINY_MODEL = resolve('test/fixtures/models/one-logit')
/** The run's Redis: REDIS_URL, or one that was started for the run. */
export const REDIS_URL = inject('redisUrl')

export class Stage {
  readonly prefix = `{test-${randomBytes(6).toString('hex')}}`
  readonly redis = new Redis(REDIS_URL, { maxRetriesPerRequest: 3 })
  readonly #closers: (() => unknown)[] = []
  #model = TINY_MODEL

  options(input: OptionsInput = {}): Options {
    const quick = { model: TINY_MODEL, threads: 1, calibrate: false, sessions: 1, batchPairs: 8, pollIntervalMs: 200 }
    return resolveOptions(
      { ...quick, metricsPort: 0, logLevel: 'silent', redis: REDIS_URL, prefix: this.prefix, ...input },
      {},
    )
  }

  /** Its requests mean the model of the worker that was started last, unless they say another. */
  client(input: OptionsInput = {}): RerankClient {
    const client = new RerankClient(this.options({ model: this.#model, ...input }))
    this.onEnd(() => client.close())
    return client
  }

  async worker(input: OptionsInput = {}): Promise<RerankWorker> {
    const options = this.options(input)
    this.#model = options.model
    const worker = await RerankWorker.start(options, modelSource(options))
    this.onEnd(() => worker.close(true))
    return worker
  }

  onEnd(close: () => unknown): void {
    this.#closers.push(close)
  }

  /** A key of the queue that requests go to that name no more than the tiny model. */
  queueKey(lane: Lane, what: string): string {
    return `${this.prefix}:${queueName('rerank', plainPool(TINY_MODEL), lane)}:${what}`
  }

  /** Jobs that wait in that queue. */
  async queued(lane: Lane): Promise<number> {
    const waiting = this.redis.llen(this.queueKey(lane, 'wait'))
    return (await waiting) + (await this.redis.zcard(this.queueKey(lane, 'prioritized')))
  }

  /** Keys under this test's prefix. */
  keys(pattern = '*'): Promise<string[]> {
    return this.#matching(`${this.prefix.replace(/[{}]/g, '\\$&')}:${pattern}`)
  }

  #ofAllShards(): Promise<string[]> {
    return this.#matching(`\\${this.prefix.slice(0, -1)}*`)
  }

  async #matching(match: string): Promise<string[]> {
    const keys: string[] = []
    for await (const found of this.redis.scanStream({ match, count: 1000 })) keys.push(...(found as string[]))
    return keys
  }

  async end(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close()
    const keys = await this.#ofAllShards()
    if (keys.length > 0) await this.redis.unlink(keys)
    this.redis.disconnect()
  }
}

/** A stage for each test of a file, ended after it. */
export function useStage(): () => Stage {
  let stage: Stage | undefined
  afterEach(async () => {
    await stage?.end()
    stage = undefined
  })
  return () => {
    stage ??= new Stage()
    return stage
  }
}

/** Waits for something to become true, looking often; fails loudly when it does not. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, ms = 20_000): Promise<void> {
  const deadline = Date.now() + ms
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`did not happen within ${ms} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
