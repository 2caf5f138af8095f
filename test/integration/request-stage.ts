/** What tests of a request's life stand on, besides the stage: its keys and scripts, and workers whose batches wait. */
import { makeLogger } from '../../shared/logger.js'
import type { OptionsInput } from '../../shared/options.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { Caretaker, type CaretakerTimes } from '../../shared/redis/caretaker.js'
import { RequestLife } from '../../shared/redis/request-life.js'
import { RerankWorker } from '../../worker/worker.js'
import { Pace, pacedSource } from './paced-source.js'
import type { Stage } from './stage.js'

export const documents = (name: string, count: number) =>
  Array.from({ length: count }, (_, i) => `passage ${i} of ${name}, about ${(i * 7) % 13}`)

export function lifeOf({ redis, prefix }: Stage) {
  const keys = keysOf(prefix, 'rerank')
  return { keys, life: new RequestLife(redis, keys) }
}

/** A worker whose batches run when the test says so. */
export async function pacedWorker(s: Stage, input: OptionsInput = {}, now: () => number = Date.now) {
  const pace = new Pace()
  const options = s.options({ scoreCacheTtlMs: 0, ...input })
  const worker = await RerankWorker.start(options, pacedSource(options, pace), { now })
  s.onEnd(() => worker.close(true))
  s.onEnd(() => pace.release())
  return { pace, worker }
}

const QUICK: CaretakerTimes = {
  soonestMs: 1,
  latestMs: 1,
  queueingMs: 0,
  beforeExpiryMs: 0,
  pictureMs: 0,
  overdueMs: 10_000,
  poolMs: 0,
}

/** Looks after requests when the test says so, with no patience; no worker does meanwhile. */
export async function caretakerOf(s: Stage, times: Partial<CaretakerTimes> = {}, unservedMs = 3_600_000) {
  const { keys } = lifeOf(s)
  await s.redis.set(keys.caretaker, 'test')
  const reconciled: string[] = []
  const events = { recovered: () => undefined, reconciled: (id: string) => reconciled.push(id) }
  const log = makeLogger('silent', 'test')
  const caretaker = new Caretaker(
    'test',
    s.redis,
    keys,
    { maxStalled: 3, unservedMs, attempts: 1, retryBackoffMs: 1 },
    events,
    log,
    {
      ...QUICK,
      ...times,
    },
  )
  s.onEnd(() => caretaker.close())
  return { caretaker, reconciled }
}

/** How the requests of the stage ended, by outcome, as Redis has counted. */
export async function endsOf(s: Stage): Promise<Record<string, number>> {
  const ends: Record<string, number> = {}
  for (const [field, count] of Object.entries(await s.redis.hgetall(lifeOf(s).keys.ends))) {
    const outcome = field.split('|').at(-1) ?? ''
    ends[outcome] = (ends[outcome] ?? 0) + Number(count)
  }
  return ends
}
