/** How large a fleet has to be for some work in some time: operational laws over measured speeds, no simulation. */
import { costOf, PRODUCER_COST, REDIS_COST, RESULT_BYTES, SCORE_BYTES, WAITING_BYTES } from './queue-costs.js'

/** Of a worker's raw model speed, what is left end to end; `npm run bench:throughput` measures it. */
const END_TO_END = 0.95
/** A station busier than this answers late: requests queue up before it. */
const BUSIEST = 0.7

/** What has to be done. */
export interface Workload {
  readonly pairs: number
  readonly tokensPerPair: number
  readonly pairsPerRequest: number
  /** UTF-8, inline. */
  readonly bytesPerDocument: number
  /** Until it has to be done. */
  readonly seconds: number
  /** Share of the workers' time that is kept free: for pairs longer than thought, restarts, a slower neighbour. */
  readonly reserve: number
}

/** What is there. */
export interface FleetState {
  /** Of one worker process like the one measured: padded tokens a second of its model calls. */
  readonly tokensPerSecond: number
  /** Requests or parts of requests that wait before this work does. */
  readonly queuedJobs: number
  /** Live workers of the pool, taken to be like the one measured. */
  readonly liveWorkers: number
}

/** How long what is not needed any more is kept. */
export interface Keeping {
  readonly resultTtlMs: number
  readonly scoreCacheTtlMs: number
  readonly sharedScoreCacheEntries: number
  /** What a batch run keeps open at most. */
  readonly maxWindowRequests: number
  readonly maxWindowBytes: number
}

export interface Plan {
  /** Of one worker, end to end, without the reserve. */
  readonly pairsPerSecondOfWorker: number
  /** With what is queued already. */
  readonly pairsPerSecondNeeded: number
  readonly workers: number
  /** Share of their time that they score. */
  readonly busy: number
  /** By those workers, without the reserve. */
  readonly secondsTaken: number
  /** By the workers that are alive now; Infinity without any. */
  readonly secondsByLiveWorkers: number
  readonly requestsPerSecond: number
  readonly redis: {
    /** Share of one core at that rate. */
    readonly busy: number
    /** So that none is too busy. */
    readonly shards: number
    readonly bytes: {
      readonly waiting: number
      readonly results: number
      readonly scores: number
      readonly all: number
    }
  }
  readonly producers: number
  /** What the workers work together, in machine hours where each has a machine of its own. */
  readonly workerHours: number
}

export function planFleet(work: Workload, fleet: FleetState, keeping: Keeping): Plan {
  const { pairsPerRequest, seconds, reserve } = work
  const ofWorker = (END_TO_END * fleet.tokensPerSecond) / work.tokensPerPair
  const pairs = work.pairs + fleet.queuedJobs * pairsPerRequest
  const needed = pairs / seconds
  const workers = Math.max(1, Math.ceil(needed / (ofWorker * (1 - reserve))))
  const secondsTaken = pairs / (ofWorker * workers)
  const requestsPerSecond = (ofWorker * workers) / pairsPerRequest
  const redisBusy = requestsPerSecond * costOf(REDIS_COST, pairsPerRequest)
  return {
    pairsPerSecondOfWorker: ofWorker,
    pairsPerSecondNeeded: needed,
    workers,
    busy: needed / (ofWorker * workers),
    secondsTaken,
    secondsByLiveWorkers: fleet.liveWorkers === 0 ? Number.POSITIVE_INFINITY : pairs / (ofWorker * fleet.liveWorkers),
    requestsPerSecond,
    redis: {
      busy: redisBusy,
      shards: Math.max(1, Math.ceil(redisBusy / BUSIEST)),
      bytes: bytesOf(work, keeping, requestsPerSecond),
    },
    producers: Math.max(1, Math.ceil((requestsPerSecond * costOf(PRODUCER_COST, pairsPerRequest)) / BUSIEST)),
    workerHours: (workers * secondsTaken) / 3600,
  }
}

/** For a batch run, whose window is bounded; what is submitted all at once waits all at once, up to `maxQueuedBytes`. */
function bytesOf(
  { pairs, pairsPerRequest, bytesPerDocument }: Workload,
  keeping: Keeping,
  requestsPerSecond: number,
): Plan['redis']['bytes'] {
  const requests = pairs / pairsPerRequest
  const open = Math.min(requests, keeping.maxWindowRequests)
  const waiting = Math.min(keeping.maxWindowBytes, open * (WAITING_BYTES + pairsPerRequest * bytesPerDocument))
  const keptFor = (ttlMs: number) => Math.min(requests, (requestsPerSecond * ttlMs) / 1000)
  const { resultTtlMs, scoreCacheTtlMs, sharedScoreCacheEntries } = keeping
  const results = keptFor(resultTtlMs) * (RESULT_BYTES.perRequest + pairsPerRequest * RESULT_BYTES.perDocument)
  const queries = Math.min(keptFor(scoreCacheTtlMs), sharedScoreCacheEntries / pairsPerRequest)
  const scores = queries * (SCORE_BYTES.perQuery + pairsPerRequest * SCORE_BYTES.perPair)
  return { waiting, results, scores, all: waiting + results + scores }
}
