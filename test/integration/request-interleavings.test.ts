/**
 * A request of two parts between two producers and two workers, in every order of what may happen to it: submitted, submitted
 * again, taken, written, merged, failed, given back, cancelled, given up, told of late, crashed between any two calls to Redis.
 * The scripts are the real ones on a real Redis; only the queue between the sides is a list here, which may lose nothing and
 * may deliver twice. Whatever happens: one answer a generation, from parts of that generation, and nothing left behind.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { RankmillError } from '../../shared/errors.js'
import { type Keys, keysOf } from '../../shared/protocol/keys.js'
import { errorEnd, type HeldJob, type NewNote, RequestLife } from '../../shared/redis/request-life.js'
import { Stage } from './stage.js'

const PARTS = 2
const SPACE = 'space'
let stage: Stage
let life: RequestLife
let keys: Keys

beforeAll(() => {
  stage = new Stage()
  keys = keysOf(stage.prefix, 'rerank')
  life = new RequestLife(stage.redis, keys)
})
afterAll(() => stage.end())

interface QueuedJob {
  readonly generation: number
  readonly part: number
}

type Step =
  | 'submit'
  | 'submit without jobs'
  | 'take'
  | 'write'
  | 'fail'
  | 'late'
  | 'redeliver'
  | 'cancel'
  | 'give up'
  | 'crash'
const STEPS: readonly Step[] = [
  ...([
    'submit',
    'submit without jobs',
    'take',
    'write',
    'fail',
    'late',
    'redeliver',
    'cancel',
    'give up',
    'crash',
  ] as const),
]

/** What goes on around one request. */
class World {
  readonly id: string
  readonly queue: QueuedJob[] = []
  /** What the workers have in hand, oldest first. */
  readonly inHand: { job: HeldJob; merges: boolean }[] = []
  /** Jobs that were taken once, and may be delivered again. */
  readonly delivered: QueuedJob[] = []
  /** Answers that were written, by generation. */
  readonly answers = new Map<number, string[]>()

  constructor(id: string) {
    this.id = id
  }

  async run(step: Step): Promise<void> {
    switch (step) {
      case 'submit':
      case 'submit without jobs': {
        const noted = await life.note(this.#note())
        if (!('opened' in noted) || step === 'submit without jobs') return
        const { generation } = noted.opened
        for (let part = 0; part < noted.opened.parts; part++) this.queue.push({ generation, part })
        return life.queued([{ id: this.id, generation, shared: '' }])
      }
      case 'take': {
        const next = this.queue.shift()
        if (!next) return
        this.delivered.push(next)
        const job = this.#held(next)
        const { outcome } = await life.take('worker', job, SPACE)
        if (outcome === 'score' || outcome === 'merge') this.inHand.push({ job, merges: outcome === 'merge' })
        return
      }
      case 'write': {
        const first = this.inHand.shift()
        if (!first) return
        const { job, merges } = first
        const data = `${job.part} of ${job.generation}`
        const all = merges ? await life.parts(this.id) : await life.writePart('worker', job, data, SPACE)
        if (typeof all === 'string') return
        const answer = JSON.stringify({ result: { parts: [...all].sort() }, generation: job.generation })
        return this.#answered(
          job.generation,
          answer,
          await life.answer(this.#ref(job), { outcome: 'completed', answer }),
        )
      }
      case 'fail': {
        const first = this.inHand.shift()
        if (!first) return
        return this.#end(first.job.generation, 'worker_lost', 'answer')
      }
      case 'late': {
        // An event of the oldest job that ever was.
        const [first] = this.delivered
        return first && this.#end(first.generation, 'worker_lost', 'answer')
      }
      case 'redeliver': {
        const again = this.delivered.at(-1)
        if (again) this.queue.push(again)
        return
      }
      case 'cancel':
      case 'give up': {
        const note = await life.read(this.id)
        return note && this.#end(note.generation, 'deadline_exceeded', step === 'cancel' ? 'answer' : 'giveUp')
      }
      case 'crash': {
        // A worker dies with a job: it comes back.
        const lost = this.inHand.shift()
        if (!lost) return
        this.queue.push(lost.job)
        return life.giveBack('worker', lost.job)
      }
    }
  }

  /** What the living do when nothing else happens any more. */
  async settle(): Promise<void> {
    while (this.queue.length > 0 || this.inHand.length > 0) await this.run(this.inHand.length > 0 ? 'write' : 'take')
    const note = await life.read(this.id)
    if (!note || (await life.isAnswered(this.id))) return
    // Jobs that were never queued: its owner comes back, or somebody looks after it.
    expect(note.queued).toBe(false)
    await this.run('submit')
    await this.settle()
  }

  #note(): NewNote {
    return {
      ...{ id: this.id, fingerprint: 'f', shares: null, model: 'm', poolSuffix: '', fallbackModel: 'm' },
      ...{ lane: 'interactive', parts: PARTS, pairs: 2, bytes: 100, deadlineMs: null, interest: 'durable' },
      ...{ requestTtlMs: 60_000, resultTtlMs: 60_000, maxQueuedJobs: 1e9, maxQueuedBytes: 1e12, unservedMs: 60_000 },
      pinnedCorpus: null,
      shards: 1,
    }
  }

  #held({ generation, part }: QueuedJob): HeldJob {
    return { requestId: this.id, generation, part, queue: 'q', jobId: `${this.id}.${generation}.${part}`, token: 't' }
  }

  #ref({ generation }: QueuedJob) {
    return { id: this.id, generation, shared: '' }
  }

  async #end(generation: number, code: 'worker_lost' | 'deadline_exceeded', how: 'answer' | 'giveUp'): Promise<void> {
    const end = errorEnd(new RankmillError(code, code).toBody(), generation)
    this.#answered(generation, end.answer, await life[how]({ id: this.id, generation, shared: '' }, end))
  }

  #answered(generation: number, answer: string, { outcome }: { outcome: string }): void {
    if (outcome === 'written') this.answers.set(generation, [...(this.answers.get(generation) ?? []), answer])
  }
}

let worlds = 0

async function check(steps: readonly Step[]): Promise<void> {
  const world = new World(`request-${worlds++}`)
  await stage.redis.del(keys.load)
  for (const step of ['submit', ...steps] as const) await world.run(step)
  await world.settle()
  for (const [generation, answers] of world.answers) {
    expect(answers, `answers of generation ${generation} after ${steps.join(', ')}`).toHaveLength(1)
  }
  const note = (await life.read(world.id))!
  const answer = JSON.parse((await stage.redis.get(keys.result(world.id))) ?? 'null')
  expect(JSON.stringify(answer)).toBe(world.answers.get(note.generation)?.[0])
  if (answer.result) expect(answer.result.parts.map((part: string) => part[0])).toEqual(['0', '1'])
  await life.forget([world.id])
  // A worker's hand is emptied when its job ends, which here is another's business.
  await stage.redis.del(keys.held('worker'))
  expect((await stage.keys(`*${world.id}*`)).sort()).toEqual([])
  expect(await stage.redis.zscore(keys.open, world.id)).toBe(null)
  expect(await stage.redis.hgetall(keys.load), `load after ${steps.join(', ')}`).toEqual({})
}

function* sequences(length: number): Generator<Step[]> {
  if (length === 0) {
    yield []
    return
  }
  for (const rest of sequences(length - 1)) for (const step of STEPS) yield [...rest, step]
}

/** How many events are tried in every order: each one more takes ten times as long. */
const EXHAUSTIVE = Number(process.env['RANKMILL_TEST_EVENTS'] ?? 3)

it(`ends with one true answer in every order of ${EXHAUSTIVE} events`, async () => {
  for (const steps of sequences(EXHAUSTIVE)) await check(steps)
}, 600_000)

it('ends with one true answer after any number of events', async () => {
  const steps = fc.array(fc.constantFrom(...STEPS), { minLength: 5, maxLength: 40 })
  await fc.assert(fc.asyncProperty(steps, check), { numRuns: 300 })
}, 600_000)
