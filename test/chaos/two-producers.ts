/**
 * Two producers that ask for the same requests under the same ids, and cut them differently, for as long as everything
 * else goes on. Each request has one answer, wholly of one version of the model.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { RerankClient } from '../../producer/client.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RankedDocument, RerankResult } from '../../shared/protocol/result.js'

const DOCUMENTS = 9
const TRY_MS = 15_000
const PAUSE_MS = 50

export class TwoProducers {
  readonly wrong: string[] = []
  tries = 0
  readonly #url: string
  readonly #model: string
  readonly #shards: number
  readonly #clients: readonly RerankClient[]
  readonly #answers = new Map<string, RerankResult>()
  #isStopped = false
  #isGivenUp = false
  /** How often Redis forgot what it had said: whoever comes later may be given another answer of another version. */
  #losses = 0
  #running: Promise<void> | undefined

  constructor(url: string, model: string, shards: number) {
    this.#url = url
    this.#model = model
    this.#shards = shards
    const settings = { redis: url, shards, logLevel: 'silent', commandTimeoutMs: 1000 } as const
    this.#clients = [
      new RerankClient({ ...settings, maxJobPairs: 2 }),
      new RerankClient({ ...settings, maxJobPairs: 4 }),
    ]
  }

  get answered(): number {
    return this.#answers.size
  }

  start(): void {
    this.#running = this.#run()
  }

  /** Redis has lost, or is about to lose, some of what it knows. */
  forgotten(): void {
    this.#losses++
  }

  /** The last request is answered. @param gives it up where it is not */
  async stop(givesUp = false): Promise<void> {
    this.#isStopped = true
    this.#isGivenUp = givesUp
    await this.#running
    await Promise.all(this.#clients.map((client) => client.close()))
  }

  /** Compares with what a fleet that nothing disturbs gives, for each version one: `queue` of a version's own; so many answers. */
  async compare(queue: string, count: number): Promise<number> {
    const client = new RerankClient({ redis: this.#url, shards: this.#shards, logLevel: 'silent', queue })
    let compared = 0
    for (const [id, result] of [...this.#answers].slice(0, count)) {
      const undisturbed = await client.rerank(this.#request(id))
      if (undisturbed.fingerprint !== result.fingerprint) continue
      compared++
      if (!isDeepStrictEqual(undisturbed.results, result.results)) this.wrong.push(`${id}: other scores`)
    }
    await client.close()
    return compared
  }

  async #run(): Promise<void> {
    for (let i = 0; !this.#isStopped; i++) {
      const request = this.#request(`asked twice ${i}`)
      const losses = this.#losses
      const [one, two] = await Promise.all(this.#clients.map((client) => this.#untilAnswered(client, request)))
      if (!one || !two) continue
      this.#answers.set(one.id, one)
      const places = new Set(one.results.map(({ index }: RankedDocument) => index))
      if (one.results.length !== DOCUMENTS || places.size !== DOCUMENTS) this.wrong.push(`${one.id}: not whole`)
      const isSame = losses === this.#losses ? isDeepStrictEqual(one, two) : sameScores(one, two)
      if (!isSame) this.wrong.push(`${one.id}: two answers`)
      await delay(PAUSE_MS)
    }
  }

  async #untilAnswered(client: RerankClient, request: RerankInput): Promise<RerankResult | undefined> {
    for (;;) {
      try {
        return await client.rerank(request, { timeoutMs: TRY_MS })
      } catch (error) {
        const isDenied = error instanceof RankmillError && error.code === 'redis_denied'
        if (!(error instanceof RankmillError) || !(error.retryable || isDenied)) {
          this.wrong.push(`${request.id}: ${error}`)
          return undefined
        }
        this.tries++
        if (this.#isGivenUp) return undefined
        await delay(PAUSE_MS)
      }
    }
  }

  #request(id: string): RerankInput {
    const documents = Array.from({ length: DOCUMENTS }, (_, i) => `passage ${i} of ${id}, about ${(i * 5) % 7}`)
    return { id, model: this.#model, query: id, documents }
  }
}

/** Of one version the same; two versions differ as they should. */
function sameScores(one: RerankResult, two: RerankResult): boolean {
  return one.fingerprint !== two.fingerprint || isDeepStrictEqual(one.results, two.results)
}
