/**
 * A request's life, from its note to the moment that it is forgotten: the one owner of its states, for producers and
 * workers alike. docs/architecture.md draws them; every transition is one script of request-scripts.ts.
 */
import type { Redis } from 'ioredis'
import { ERRORS, type ErrorBody, type ErrorCode } from '../errors.js'
import { candidateCount } from '../protocol/documents.js'
import { type Answer, ERROR_HEAD, type RerankJob } from '../protocol/job.js'
import type { Keys } from '../protocol/keys.js'
import type { Lane } from '../protocol/lanes.js'
import type { RerankResult } from '../protocol/result.js'
import { REQUEST_SCRIPTS } from './request-scripts.js'

/**
 * Why a request is noted: its owner comes back for it, and nobody who merely waits for it may end it (`durable`); somebody
 * `waits`; or does so and was counted already.
 */
export type Interest = 'durable' | 'waits' | 'counted'

/** What is noted of a request before it has any job. */
export interface NewNote {
  readonly id: string
  readonly fingerprint: string
  /** What requests of the same content share, or null where this one stays alone. */
  readonly shares: string | null
  /** As in a pool's name; null: the fleet's default. */
  readonly model: string | null
  readonly poolSuffix: string
  readonly fallbackModel: string
  readonly lane: Lane
  readonly parts: number
  readonly pairs: number
  /** What its jobs hold, about. */
  readonly bytes: number
  readonly deadlineMs: number | null
  readonly interest: Interest
  readonly requestTtlMs: number
  readonly resultTtlMs: number
  readonly maxQueuedJobs: number
  readonly maxQueuedBytes: number
  readonly unservedMs: number
  /** The corpus whose version will be pinned for it, or null. */
  readonly pinnedCorpus: string | null
  /** How many the fleet has. */
  readonly shards: number
}

/** A request as its note has it: decided once, read by everybody after. */
export interface Opened {
  readonly generation: number
  readonly pool: string
  readonly lane: Lane
  readonly parts: number
  /** Milliseconds since 1970, by Redis' clock. */
  readonly submittedAt: number
  readonly deadlineAt: number | null
  /** The generation in which it was submitted or opened again: what one who gives up has counted on. */
  readonly life: number
}

/** What somebody who looks after a request has to know of it. */
export interface OpenRequest extends RequestNote {
  readonly id: string
  readonly leftMs: number
  readonly scored: ReadonlySet<number>
}

/** Where the jobs of a request's generation are. */
export type Place = Pick<Opened, 'generation' | 'pool' | 'lane' | 'parts'>

export type NoteOutcome =
  /** Its jobs are to be queued now: it is new, it failed and is open again, or whoever noted it has not queued them (yet). */
  | { readonly state: 'new' | 'unqueued'; readonly opened: Opened }
  /** Its jobs were queued before. */
  | { readonly state: 'pending'; readonly opened: Opened }
  | { readonly state: 'reopened'; readonly opened: Opened; readonly before: Place }
  | { readonly state: 'answered' | 'conflict' }
  /** The request that it joined, and whether that one's jobs are all in the queue. */
  | { readonly state: 'shared'; readonly id: string; readonly life: number; readonly queued: boolean }
  | { readonly state: 'overloaded'; readonly pool: string; readonly jobs: number; readonly bytes: number }
  /** It could never be taken, however empty the queue. */
  | { readonly state: 'too_large'; readonly jobs: number; readonly bytes: number }
  /** The fleet has another number of shards now: the request would not be where others look for it. */
  | { readonly state: 'other_shards'; readonly has: number }

/** One job of a request, as scripts know it. */
export interface PartRef {
  readonly requestId: string
  readonly generation: number
  readonly part: number
}

/** What a worker has in hand, and the token of its lock on it. */
export interface HeldJob extends PartRef {
  readonly queue: string
  readonly jobId: string
  readonly token: string
}

export interface Taken {
  /**
   * `score` it; `merge` the parts, which are all there; the rest is not to be done: `done` (this part is), `answered`, `stale`
   * (of another generation), `gone`, `late`, `elsewhere` (another score space's).
   */
  readonly outcome: 'score' | 'merge' | 'done' | 'answered' | 'stale' | 'gone' | 'late' | 'elsewhere'
  /** Redis' clock, and the request's times by it. */
  readonly now: number
  readonly submittedAt: number
  readonly deadlineAt: number | null
  /** The score space that a split request is in; '' for none yet. */
  readonly space: string
  /** What requests of the same content join it by; '' for nothing. */
  readonly shared: string
  /** The error that it was answered with; '' for none. */
  readonly code: ErrorCode | ''
}

/** What a request was answered with: its end, whoever brings it about. */
export interface End {
  readonly outcome: 'completed' | ErrorCode
  /** JSON. */
  readonly answer: string
}

/** A request that ends. */
export interface EndingRef {
  readonly id: string
  readonly generation: number
  readonly shared: string
}

export interface AnswerOutcome {
  readonly outcome: 'written' | 'answered' | 'stale' | 'gone' | 'wanted'
  /** From submission to answer, where this call wrote it. */
  readonly durationMs: number
}

export interface RequestNote extends Place {
  readonly pairs: number
  readonly submittedAt: number
  readonly deadlineAt: number | null
  /** Jobs that no worker has begun. */
  readonly waitingJobs: number
  /** It names no model, and no worker had said yet which one is meant. */
  readonly unresolved: boolean
  /** Where its jobs come from, while they are moved. */
  readonly movedFrom?: Pick<Place, 'generation' | 'pool'>
  /** Whether all of its jobs were put into the queue. */
  readonly queued: boolean
  readonly shared: string
  /** The score space that a split request is in; '' for none yet. */
  readonly space: string
  /** The corpus whose version is pinned for it; '' for none. */
  readonly corpus: string
  readonly resultTtlMs: number
  readonly life: number
  /** This generation was answered. Where the answer is not there, Redis has lost it. */
  readonly isAnswered: boolean
}

/** How long after its last sign of life a request is looked after for the first time. */
const LOOK_AFTER_MS = 30_000

const RETRYABLE_CODES = ` ${Object.entries(ERRORS)
  .filter(([, e]) => e.retryable)
  .map(([code]) => code)
  .join(' ')} `

type Reply = readonly (string | number | null | readonly string[])[]
type ScriptName = keyof typeof REQUEST_SCRIPTS
type Commands = { [name in ScriptName]: (...args: (string | number)[]) => Promise<unknown> }

export class RequestLife {
  readonly #redis: Redis & Commands
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    for (const [name, script] of Object.entries(REQUEST_SCRIPTS)) redis.defineCommand(name, script)
    this.#redis = redis as Redis & Commands
    this.#keys = keys
  }

  async note(note: NewNote): Promise<NoteOutcome> {
    const { request, result, parts, same, load, open, pools, fleet, bellChannel } = this.#keys
    const { id, shares } = note
    const reply = (await this.#redis.rankmillNote(
      ...[request(id), result(id), parts(id), same(shares ?? ''), load, open, pools, fleet],
      ...[id, note.fingerprint, shares ?? '', note.model ?? '', note.poolSuffix, note.fallbackModel, note.lane],
      ...[note.parts, note.pairs, note.bytes, note.deadlineMs ?? '', note.requestTtlMs, note.resultTtlMs],
      ...[
        note.maxQueuedJobs,
        note.maxQueuedBytes,
        RETRYABLE_CODES,
        note.interest,
        bellChannel,
        Math.min(LOOK_AFTER_MS, note.unservedMs),
        note.pinnedCorpus ?? '',
        note.shards,
      ],
    )) as Reply
    const state = reply[0] as NoteOutcome['state']
    const text = (place: number) => String(reply[place] ?? '')
    switch (state) {
      case 'shared':
        return { state, id: text(1), queued: text(2) === '1', life: Number(reply[3]) }
      case 'overloaded':
        return { state, pool: text(1), jobs: Number(reply[2]), bytes: Number(reply[3]) }
      case 'too_large':
        return { state, jobs: Number(reply[1]), bytes: Number(reply[2]) }
      case 'other_shards':
        return { state, has: Number(reply[1]) }
      case 'new':
      case 'unqueued':
      case 'pending':
      case 'reopened': {
        const opened = {
          generation: Number(reply[1]),
          pool: text(2),
          lane: text(3) as Lane,
          parts: Number(reply[4]),
          submittedAt: Number(reply[5]),
          deadlineAt: text(6) === '' ? null : Number(reply[6]),
          life: Number(state === 'unqueued' || state === 'pending' ? reply[7] : reply[1]),
        }
        if (state !== 'reopened') return { state, opened }
        const before = { generation: Number(reply[7]), pool: text(8), lane: text(9) as Lane, parts: opened.parts }
        return { state, opened, before }
      }
      default:
        return { state }
    }
  }

  /** @returns whether a request that was joined is lost, and nobody joins it any more: it is to be noted anew */
  async partFrom(id: string, life: number, shares: string): Promise<boolean> {
    const { same, request } = this.#keys
    return (await this.#redis.rankmillPartFrom(same(shares), request(id), id, life)) === 1
  }

  /** All jobs of each one's generation are in the queue: whoever submits it again has nothing to add. */
  async queued(requests: readonly EndingRef[]): Promise<void> {
    const { request, same } = this.#keys
    const keys = requests.flatMap(({ id, shared }) => [request(id), same(shared)])
    const args = requests.flatMap(({ id, generation }) => [generation, id])
    await this.#redis.rankmillQueued(keys.length, ...keys, ...args)
  }

  /** Takes a note back whose jobs could not be queued. @returns false where somebody else relies on it */
  async withdraw(id: string, generation: number, shares: string | null): Promise<boolean> {
    const { request, load, open, same } = this.#keys
    return (await this.#redis.rankmillWithdraw(request(id), load, open, same(shares ?? ''), generation, id)) === 1
  }

  /** Gives a job of release 0.1.0, which knew no generations, a note to go by. */
  async adopt(job: RerankJob, pool: string, lane: Lane, requestTtlMs: number, resultTtlMs: number): Promise<void> {
    const { requestId, parts, documents, submittedAt, deadlineAt } = job
    await this.#redis.rankmillAdopt(
      ...[this.#keys.request(requestId), pool, lane, parts, candidateCount(documents), submittedAt, deadlineAt ?? ''],
      ...[resultTtlMs, requestTtlMs],
    )
  }

  /** Says which model an unresolved request means. @returns where its jobs belong now; undefined where nothing changed */
  async resolve(id: string, generation: number): Promise<{ generation: number; pool: string } | undefined> {
    const { request, result, load, pools, fleet } = this.#keys
    const reply = await this.#redis.rankmillResolve(request(id), result(id), load, pools, fleet, generation)
    const [opened, pool] = reply as Reply
    return opened === undefined ? undefined : { generation: Number(opened), pool: String(pool) }
  }

  /** @param space the score space in which this worker would score it */
  async take(worker: string, job: HeldJob, space: string): Promise<Taken> {
    const { request, result, parts, load, held } = this.#keys
    const { requestId: id, generation, part } = job
    const reply = (await this.#redis.rankmillTake(
      ...[request(id), result(id), parts(id), load, held(worker)],
      ...[generation, part, space, fieldOf(job), JSON.stringify(job)],
    )) as Reply
    const [outcome, now, submittedAt, deadlineAt, ownSpace, shared, code] = reply
    return {
      outcome: outcome as Taken['outcome'],
      now: Number(now ?? 0),
      submittedAt: Number(submittedAt ?? 0),
      deadlineAt: deadlineAt === '' || deadlineAt === undefined ? null : Number(deadlineAt),
      space: String(ownSpace ?? ''),
      shared: String(shared ?? ''),
      code: (code ?? '') as Taken['code'],
    }
  }

  /**
   * Lets a split request go on in another score space.
   *
   * @returns the parts that had been scored in the one before, and are to be scored again
   */
  async rebase({ requestId, generation }: PartRef, before: string, after: string): Promise<number[]> {
    const { request, parts } = this.#keys
    const keys = [request(requestId), parts(requestId)]
    return ((await this.#redis.rankmillRebase(...keys, generation, before, after)) as string[]).map(Number)
  }

  /** @returns every part's text once all are there; else what became of it */
  async writePart(worker: string, job: HeldJob, data: string, space: string): Promise<readonly string[] | string> {
    const { request, result, parts, held } = this.#keys
    const { requestId: id, generation, part } = job
    const keys = [request(id), result(id), parts(id), held(worker)]
    const [outcome, all] = (await this.#redis.rankmillWritePart(
      ...keys,
      ...[generation, part, data, space, fieldOf(job)],
    )) as Reply
    return outcome === 'all' ? (all as readonly string[]) : String(outcome)
  }

  /** The texts of a split request's scored parts. */
  async parts(id: string): Promise<string[]> {
    return this.#redis.hvals(this.#keys.parts(id))
  }

  /**
   * Of unanswered requests those that never will be, as they are: Redis knows them no more, or has lost their answers.
   */
  async lost(ids: readonly string[]): Promise<string[]> {
    const reading = this.#redis.pipeline()
    // The answer last: it is written before the note says so to this reading.
    for (const id of ids) reading.hmget(this.#keys.request(id), 'generation', 'ended').exists(this.#keys.result(id))
    const replies = ((await reading.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply
    })
    return ids.filter((_, i) => {
      const [generation, ended] = replies[2 * i] as (string | null)[]
      return replies[2 * i + 1] === 0 && (!generation || generation === ended)
    })
  }

  async isAnswered(id: string): Promise<boolean> {
    return (await this.#redis.exists(this.#keys.result(id))) === 1
  }

  /**
   * Ends a request.
   *
   * @param ref with what it is shared by, as its note or `take` says
   * @param by the worker that had it in hand, and what it held
   */
  answer(ref: EndingRef, end: End, by?: { worker: string; job: HeldJob }): Promise<AnswerOutcome> {
    return this.#answer(ref, end, by, '')
  }

  /** Ends a request for one who waits for it no more, unless somebody else wants it. */
  giveUp(ref: EndingRef, end: End): Promise<AnswerOutcome> {
    return this.#answer(ref, end, undefined, 'give up')
  }

  /** A worker has a part in hand no more, and has not done it: it counts as waiting again. */
  async giveBack(worker: string, job: HeldJob): Promise<void> {
    const { request, result, load, held } = this.#keys
    const keys = [request(job.requestId), load, held(worker), result(job.requestId)]
    await this.#redis.rankmillGiveBack(...keys, job.generation, job.part, fieldOf(job))
  }

  async read(id: string): Promise<RequestNote | undefined> {
    return noteOf(await this.#redis.hmget(this.#keys.request(id), ...NOTE_FIELDS))
  }

  /**
   * Notes of several requests, each with how long it is still remembered (below 0: without limit) and which of its parts are
   * scored; undefined where there is none; an error where it cannot be read.
   */
  async readAll(ids: readonly string[]): Promise<(OpenRequest | Error | undefined)[]> {
    const reading = this.#redis.pipeline()
    for (const id of ids) {
      reading
        .hmget(this.#keys.request(id), ...NOTE_FIELDS)
        .pttl(this.#keys.request(id))
        .hkeys(this.#keys.parts(id))
    }
    const replies = (await reading.exec()) ?? []
    return ids.map((id, i) => {
      const [[wrong, fields], [, leftMs], [, parts]] = [0, 1, 2].map((k) => replies[3 * i + k] ?? [NO_REPLY, null]) as [
        [Error | null, unknown],
        [unknown, unknown],
        [unknown, unknown],
      ]
      if (wrong) return wrong
      const note = noteOf(fields as (string | null)[])
      return note && { ...note, id, leftMs: Number(leftMs), scored: new Set(((parts ?? []) as string[]).map(Number)) }
    })
  }

  /** Removes what Redis holds of answered requests, in one step. @returns undefined for each that is unknown or not answered */
  async forget(
    ids: readonly string[],
  ): Promise<({ readonly id: string; readonly place: Place; readonly failed: boolean } | undefined)[]> {
    const { request, result, parts } = this.#keys
    const keys = ids.flatMap((id) => [request(id), result(id), parts(id)])
    const replies = (await this.#redis.rankmillForget(keys.length, ...keys)) as string[][]
    return ids.map((id, i) => {
      const [generation, pool = '', lane, count, head] = replies[i] ?? []
      if (generation === undefined) return undefined
      const place = { generation: Number(generation), pool, lane: lane as Lane, parts: Number(count) }
      return { id, place, failed: ERROR_HEAD.startsWith(head ?? '') }
    })
  }

  /**
   * Opens a failed request again, whatever its error.
   *
   * @returns the parts that are scored already, which need no jobs, and the generation whose failed jobs hold the others;
   *   undefined where it is not failed in that generation
   */
  async retry(
    id: string,
    generation: number,
    requestTtlMs: number,
  ): Promise<{ generation: number; submittedAt: number; done: number[]; contentOf: number } | undefined> {
    const { request, result, parts, load, open, fleet } = this.#keys
    const keys = [request(id), result(id), parts(id), load, open, fleet]
    const reply = (await this.#redis.rankmillRetry(...keys, id, generation, requestTtlMs, LOOK_AFTER_MS)) as Reply
    const [outcome, opened, submittedAt, done, contentOf] = reply
    if (outcome !== 'reopened') return undefined
    return {
      generation: Number(opened),
      submittedAt: Number(submittedAt),
      done: ((done ?? []) as readonly string[]).map(Number),
      contentOf: Number(contentOf),
    }
  }

  /** Counts a death of a part's worker. @returns how many there were; 0 where the part is of another generation */
  async lose({ requestId, generation, part, token }: HeldJob): Promise<number> {
    return (await this.#redis.rankmillLose(this.#keys.request(requestId), generation, part, token)) as number
  }

  /**
   * Unanswered requests that somebody should look after, and the time by Redis' clock.
   *
   * @param latestMs after which each is looked after again at the latest
   */
  async due(count: number, latestMs: number): Promise<{ readonly now: number; readonly ids: readonly string[] }> {
    const [now, ids] = (await this.#redis.rankmillDue(this.#keys.open, count, latestMs)) as Reply
    return { now: Number(now), ids: (ids ?? []) as readonly string[] }
  }

  /** Looks after requests again, each in so many milliseconds after `now`; those that are answered meanwhile are left alone. */
  async laterAll(now: number, ms: ReadonlyMap<string, number>): Promise<void> {
    if (ms.size === 0) return
    const scores = [...ms].flatMap(([id, after]) => [String(now + after), id])
    await this.#redis.zadd(this.#keys.open, 'XX', ...scores)
  }

  /** Looks after a request again in a while; takes it off the list where there is no note any more. */
  async later(id: string, ms: number): Promise<void> {
    const { open, request, load } = this.#keys
    await this.#redis.rankmillLater(open, request(id), load, id, ms)
  }

  async #answer(
    { id, generation, shared }: EndingRef,
    { outcome, answer }: End,
    by: { worker: string; job: HeldJob } | undefined,
    mode: '' | 'give up',
  ): Promise<AnswerOutcome> {
    const { request, result, parts, open, load, same, held, ends, doneChannel } = this.#keys
    const [written, durationMs] = (await this.#redis.rankmillAnswer(
      ...[request(id), result(id), parts(id), open, load, same(shared), held(by?.worker ?? ''), ends],
      ...[generation, answer, outcome, doneChannel, id, by ? fieldOf(by.job) : '', mode],
    )) as Reply
    return { outcome: written as AnswerOutcome['outcome'], durationMs: Number(durationMs ?? 0) }
  }
}

const NO_REPLY = new Error('Connection is closed.')
const NOTE_FIELDS = [
  ...(['generation', 'pool', 'lane', 'parts', 'pairs', 'submittedAt', 'deadlineAt', 'waitingJobs', 'queued'] as const),
  ...(['shared', 'space', 'corpus', 'resultTtlMs', 'unresolved', 'life', 'movedFrom', 'ended'] as const),
]

/** @param fields as NOTE_FIELDS name them */
function noteOf(fields: readonly (string | null)[]): RequestNote | undefined {
  const [generation, pool, lane, parts, pairs, submittedAt, deadlineAt, waitingJobs, queued] = fields
  const [shared, space, corpus, resultTtlMs, unresolved, life, movedFrom, ended] = fields.slice(9)
  if (!generation) return undefined
  return {
    generation: Number(generation),
    pool: pool ?? '',
    lane: lane as Lane,
    parts: Number(parts),
    pairs: Number(pairs),
    submittedAt: Number(submittedAt),
    deadlineAt: deadlineAt ? Number(deadlineAt) : null,
    waitingJobs: Number(waitingJobs),
    queued: queued === generation,
    shared: shared ?? '',
    space: space ?? '',
    unresolved: unresolved === '1',
    ...(movedFrom ? { movedFrom: placeIn(movedFrom) } : {}),
    corpus: corpus ?? '',
    resultTtlMs: Number(resultTtlMs),
    life: Number(life ?? generation),
    isAnswered: ended === generation,
  }
}

function placeIn(text: string): Pick<Place, 'generation' | 'pool'> {
  const [generation, pool = ''] = text.split(' ')
  return { generation: Number(generation), pool }
}

/** What a worker's held jobs are found by. */
function fieldOf({ queue, jobId }: HeldJob): string {
  return `${queue} ${jobId}`
}

export function completedEnd(result: RerankResult, generation: number): End {
  return { outcome: 'completed', answer: JSON.stringify({ result, generation } satisfies Answer) }
}

export function errorEnd(error: ErrorBody, generation: number): End {
  return { outcome: error.code, answer: JSON.stringify({ error, generation } satisfies Answer) }
}
