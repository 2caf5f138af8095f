/**
 * Stage: each candidate's score from whoever has it first: the caches, a job that is scoring the same pair, the model. It
 * is scored block by block, so that no job, however large, holds the worker's room for pairs for long.
 */
import type { WorkerMetrics } from '../../monitoring/metrics.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import type { PairBudget } from '../batching/pair-budget.js'
import type { EarlyScore } from './early-exit.js'
import { type ExitPlan, planExit } from './exit-plan.js'
import type { Candidate } from './load-candidates.js'
import type { KnownScore, PairKeys, ScoreCache } from './score-cache.js'
import type { Claim, ScoreFlights } from './score-flights.js'
import { blocksOf, scorePairs } from './score-pairs.js'
import type { Scorer } from './scorer.js'
import { besideSpent, NOTHING_SPENT, type Spent } from './spent.js'

/** The candidates that the model looked at, in their order, with their scores. */
export interface Scored {
  readonly scores: readonly (KnownScore | undefined)[]
  /** Those that have no score because they left the model early, by their places. */
  readonly left: ReadonlyMap<number, EarlyScore>
  /** The layer that all left the model after; their scores are those of this exit. */
  readonly after: number | undefined
  /** Candidates that went through the model for this job, or part of it. */
  readonly fromModel: number
  readonly spent: Spent
}

/** What scoring goes through; made once a worker. */
export interface ScoringStages {
  readonly cache: ScoreCache
  readonly flights: ScoreFlights
  readonly budget: PairBudget
  readonly metrics: WorkerMetrics
}

/** Pairs of a block. */
const BLOCK_PAIRS = 256
/** Blocks of a job at once: while one is scored, the next is encoded. */
const BLOCKS = 2

/** @throws RankmillError of the encoder or the batcher, naming documents by their index; or the signal's reason */
export async function scoreCandidates(
  job: RerankJob,
  candidates: readonly Candidate[],
  scorer: Scorer,
  stages: ScoringStages,
  signal: AbortSignal,
): Promise<Scored> {
  const { cache, flights, metrics } = stages
  const plan = planExit(job, scorer.model)
  const after = plan.kind === 'after' ? plan : undefined
  const passages = candidates.map(({ document }) => document.text)
  const { instruction, cacheSpace } = job
  const context = {
    ...scorer.context(job.maxTokensPerDoc, job.longDocuments, after && scorer.model.exits[after.exit]),
    instruction,
    cacheSpace,
  }
  const keys = await cache.keysOf(context, job.query, passages, signal)
  const scores = await metrics.time('cache', () => cache.read(keys))
  const state: State = { scores, left: new Map(), spent: NOTHING_SPENT }
  let fromModel = 0
  for (;;) {
    // What another job has landed since is in this process's cache; nobody else runs between this and the claim.
    cache.recall(keys, scores)
    const open = candidates.flatMap((_, place) => {
      return scores[place] === undefined && !state.left.has(place) ? [place] : []
    })
    if (open.length === 0) return { ...state, after: after?.layer, fromModel }
    const claim = flights.claim(new Map(open.map((place) => [place, cache.pairOf(keys, place)])), job)
    try {
      await scoreClaimed(job, candidates, claim, scorer, plan, keys, state, stages, signal)
    } finally {
      claim.release()
    }
    fromModel += claim.mine.length
    if (claim.others.size === 0) continue
    // Those that end without a score leave their places open for the next round.
    const landed = await unlessAborted(Promise.all(claim.others.values()), signal)
    for (const [n, place] of [...claim.others.keys()].entries()) scores[place] = landed[n]
  }
}

/** What is known so far; blocks add to it. */
interface State {
  readonly scores: (KnownScore | undefined)[]
  readonly left: Map<number, EarlyScore>
  spent: Spent
}

/** What blocks found stays in the caches, whatever becomes of the job: another try begins there. */
async function scoreClaimed(
  job: RerankJob,
  candidates: readonly Candidate[],
  claim: Claim,
  scorer: Scorer,
  plan: ExitPlan,
  keys: PairKeys,
  state: State,
  stages: ScoringStages,
  signal: AbortSignal,
): Promise<void> {
  const { cache, budget } = stages
  const blocks = blocksOf(job, candidates, claim.mine, scorer, Math.min(BLOCK_PAIRS, budget.limit))
  const lane = async () => {
    for (let block = blocks.shift(); block; block = blocks.shift()) await score(block)
  }
  const score = async (block: readonly number[]) => {
    try {
      const some = block.flatMap((place) => candidates[place] ?? [])
      // Of all candidates, for each block: only where it is asked for.
      const known = plan.kind === 'confident' ? state.scores.flatMap((score) => score?.logit ?? []) : []
      const scored = await scorePairs(job, some, scorer, plan, known, stages, signal)
      const found = new Map<number, KnownScore>()
      block.forEach((place, i) => {
        const early = scored.left.get(i)
        if (early && plan.kind !== 'after') state.left.set(place, early)
        const score = plan.kind === 'after' ? early?.score : scored.scores[i]
        if (!score) return
        found.set(place, score)
        state.scores[place] = score
        cache.remember(keys, place, score)
        claim.land(place, score)
      })
      state.spent = besideSpent(state.spent, scored.spent)
      // Nobody waits for it: it is in Redis before the answer is, which goes the same way, and without it nothing is wrong.
      cache.write(keys, found).catch(() => undefined)
    } catch (error) {
      blocks.length = 0
      throw error
    }
  }
  // Who leaves the model early hangs on what is known before: blocks of such a job go one after the other.
  const lanes = plan.kind === 'confident' ? 1 : BLOCKS
  const ends = await Promise.allSettled(Array.from({ length: Math.min(lanes, blocks.length) }, lane))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  let stop: () => void = () => undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
