/**
 * Where jobs are, for many at once and without reading what they hold. BullMQ keeps most of its states in sorted sets, which
 * answer at once, and two in lists, which would have to be searched for each job: of those a picture is taken now and then.
 * A job that is in neither picture nor set is asked for by itself.
 */
import type { Queue } from 'bullmq'
import type { Redis } from 'ioredis'
import { jobIdOf, type Keys } from '../protocol/keys.js'
import { queueName } from '../protocol/lanes.js'
import type { PoolQueues } from './pool-queues.js'
import type { OpenRequest, Place } from './request-life.js'

/** `limbo`: its content is there, and nobody will ever take it. `delayed`: for longer than anybody has meant. */
export type JobState = 'absent' | 'failed' | 'completed' | 'delayed' | 'limbo' | 'under way'

/** Commands in one pipeline: bounds what both sides hold. */
const CHUNK = 2000
/** List entries in one reply: Redis does nothing else meanwhile, for about a millisecond. */
const LIST_CHUNK = 5000
const LISTS = ['wait', 'active', 'paused'] as const
/** What BullMQ multiplies a delayed job's time by, in the set of those. */
const DELAY_UNIT = 4096
/** Jobs that are asked for by themselves in one survey: each is a search through whole lists. */
const ASKED = 50

export interface SurveyTimes {
  /** A picture of the lists serves for so long. */
  readonly pictureMs: number
  /** A delayed job that is so long overdue, by Redis' clock, waits for a worker whose clock is behind … */
  readonly overdueMs: number
  /** … and one that has longer than this to wait was delayed by one whose clock is ahead. */
  readonly longestDelayMs: number
}

interface Picture {
  readonly jobs: ReadonlySet<string>
  /** By Redis' clock. */
  readonly takenAt: number
}

interface Asked {
  readonly request: OpenRequest
  readonly part: number
}

export class JobSurvey {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #queues: PoolQueues
  readonly #times: SurveyTimes
  readonly #pictures = new Map<string, Picture>()

  constructor(redis: Redis, keys: Keys, queues: PoolQueues, times: SurveyTimes) {
    this.#redis = redis
    this.#keys = keys
    this.#queues = queues
    this.#times = times
  }

  /**
   * The states of those jobs of each request that `parts` names, in its order. What cannot be told cheaply now counts as under
   * way; the next survey finds it.
   *
   * @param now by Redis' clock
   */
  async states(
    requests: readonly OpenRequest[],
    parts: (request: OpenRequest) => readonly number[],
    now: number,
  ): Promise<JobState[][]> {
    const asked = requests.flatMap((request) => parts(request).map((part): Asked => ({ request, part })))
    const states: JobState[] = []
    for (let first = 0; first < asked.length; first += CHUNK / 5) {
      states.push(...(await this.#read(asked.slice(first, first + CHUNK / 5), now)))
    }
    await this.#tellLimbo(asked, states, now)
    let at = 0
    return requests.map((request) => {
      const count = parts(request).length
      at += count
      return states.slice(at - count, at)
    })
  }

  /** As far as sorted sets tell; the others are in limbo, or in a list. */
  async #read(asked: readonly Asked[], now: number): Promise<JobState[]> {
    const reading = this.#redis.pipeline()
    for (const { request, part } of asked) {
      const job = jobIdOf(request.id, request.generation, part)
      const name = this.#nameOf(request)
      reading.exists(`${name}:${job}`).zscore(`${name}:failed`, job).zscore(`${name}:completed`, job)
      reading.zscore(`${name}:prioritized`, job).zscore(`${name}:delayed`, job)
    }
    const replies = ((await reading.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply
    })
    return asked.map((_, i) => {
      const [exists, failed, completed, prioritized, delayed] = replies.slice(5 * i, 5 * i + 5)
      if (exists !== 1) return 'absent'
      if (failed !== null) return 'failed'
      if (completed !== null) return 'completed'
      if (prioritized !== null) return 'under way'
      return delayed === null ? 'limbo' : this.#delayed(Number(delayed) / DELAY_UNIT - now)
    })
  }

  #delayed(leftMs: number): JobState {
    const { overdueMs, longestDelayMs } = this.#times
    return leftMs < -overdueMs || leftMs > longestDelayMs ? 'delayed' : 'under way'
  }

  /** Tells those that are in a list from those that are nowhere. */
  async #tellLimbo(asked: readonly Asked[], states: JobState[], now: number): Promise<void> {
    let alone = 0
    for (const [i, { request, part }] of asked.entries()) {
      if (states[i] !== 'limbo') continue
      states[i] = 'under way'
      const job = jobIdOf(request.id, request.generation, part)
      const picture = await this.#picture(request, now)
      // What was queued after it was taken is not in it.
      if (picture.jobs.has(job) || request.generation >= picture.takenAt || alone++ >= ASKED) continue
      const queue: Queue = this.#queues.of(request.pool, request.lane)
      if ((await queue.getJobState(job)) === 'unknown') states[i] = 'limbo'
    }
  }

  async #picture(place: Place, now: number): Promise<Picture> {
    const name = this.#nameOf(place)
    const known = this.#pictures.get(name)
    if (known && now - known.takenAt < this.#times.pictureMs) return known
    const jobs = new Set<string>()
    for (const list of LISTS) {
      for (let first = 0; ; first += LIST_CHUNK) {
        const chunk = await this.#redis.lrange(`${name}:${list}`, first, first + LIST_CHUNK - 1)
        for (const job of chunk) jobs.add(job)
        if (chunk.length < LIST_CHUNK) break
      }
    }
    const picture = { jobs, takenAt: now }
    this.#pictures.set(name, picture)
    return picture
  }

  /** Lets go of pictures that serve no more. */
  forget(now: number): void {
    for (const [name, { takenAt }] of this.#pictures) {
      if (now - takenAt >= this.#times.pictureMs) this.#pictures.delete(name)
    }
  }

  #nameOf({ pool, lane }: Place): string {
    return `${this.#keys.prefix}:${queueName(this.#keys.queue, pool, lane)}`
  }
}
