/**
 * Scoring by stages: after each but the last, documents leave that can no longer reach the first `topN`, and those that go
 * on are handed in again, to be packed with the survivors of whatever other jobs.
 */
import type { GroupScores } from '../batching/scoring-group.js'
import type { States } from '../inference/engine.js'
import type { ModelExit } from '../model/model-exits.js'
import type { EncodedPair } from '../tokenize/pair-encoder.js'
import type { EncodedDocument } from './encode-documents.js'
import type { ExitPlan } from './exit-plan.js'
import type { KnownScore } from './score-cache.js'

/** Hidden states are about 1.5 KB a token: so many tokens of a job are between stages at once, or one document. */
const BLOCK_TOKENS = 32_768

/** Where a document left the model, and its score there, brought to the scale of final ones. */
export interface EarlyScore {
  readonly layer: number
  readonly score: KnownScore
}

export interface StagedScores {
  /** By the documents' places; undefined for those that left early. */
  readonly final: (KnownScore | undefined)[]
  readonly left: Map<number, EarlyScore>
}

/**
 * One stage of some pairs.
 *
 * @param owners of each pair its document's place
 */
export type RunStage = (
  pairs: readonly EncodedPair[],
  owners: readonly number[],
  stage: number,
  states: readonly (States | undefined)[],
) => Promise<Pick<GroupScores, 'logits' | 'states'>>

/**
 * Scores documents under a plan. They are taken in blocks, in their order: what was found of one block tells sooner who of
 * the next may leave. The rule after a stage: with the estimates (calibrated scores) of the block's documents that are
 * still in and the final scores known so far, a document leaves if its estimate plus the exit's margin is below the
 * `topN`-th best of all these. The best `topN` therefore never leave, and at least so many get final scores.
 *
 * @param known final logits of the request's other candidates
 */
export async function scoreByStages(
  plan: Exclude<ExitPlan, { kind: 'never' }>,
  exits: readonly Pick<ModelExit, 'layer' | 'calibration'>[],
  documents: readonly EncodedDocument[],
  known: readonly number[],
  runStage: RunStage,
  blockTokens = BLOCK_TOKENS,
): Promise<StagedScores> {
  const final: (KnownScore | undefined)[] = documents.map(() => undefined)
  const left = new Map<number, EarlyScore>()
  const finals = [...known]
  for (const block of blocksOf(documents, blockTokens)) {
    let inside: Traveller[] = block.map((place) => ({ place, states: [] }))
    for (const [stage, exit] of exits.entries()) {
      if (inside.length === 0) break
      const scores = await advance(inside, documents, stage, stage === exits.length - 1 ? undefined : exit, runStage)
      if (stage === exits.length - 1) {
        inside.forEach(({ place }, i) => {
          const score = scores[i]
          final[place] = score
          if (score) finals.push(score.logit)
        })
        break
      }
      const estimates = scores.map(({ logit }) => logit)
      const leaves = leaversOf(plan, stage, estimates, finals)
      inside.forEach(({ place }, i) => {
        const score = scores[i]
        if (score && leaves(score.logit)) left.set(place, { layer: exit.layer, score })
      })
      inside = inside.filter(({ place }) => !left.has(place))
    }
  }
  return { final, left }
}

/** A document between two stages. */
interface Traveller {
  readonly place: number
  /** Of each of its pairs. */
  states: readonly (States | undefined)[]
}

/** Runs a stage; each document's score after it, calibrated where it is an early one. */
async function advance(
  inside: readonly Traveller[],
  documents: readonly EncodedDocument[],
  stage: number,
  exit: Pick<ModelExit, 'calibration'> | undefined,
  runStage: RunStage,
): Promise<KnownScore[]> {
  const pairs = inside.flatMap(({ place }) => documents[place]?.pairs ?? [])
  const owners = inside.flatMap(({ place }) => documents[place]?.pairs.map(() => place) ?? [])
  const before = inside.flatMap(({ states, place }) => documents[place]?.pairs.map((_, i) => states[i]) ?? [])
  for (const traveller of inside) traveller.states = []
  const { logits, states } = await runStage(pairs, owners, stage, before)
  const { scale, offset } = exit?.calibration ?? { scale: 1, offset: 0 }
  let next = 0
  return inside.flatMap((traveller) => {
    const document = documents[traveller.place]
    if (!document) return []
    const first = next
    next += document.pairs.length
    traveller.states = states.slice(first, next)
    const own = logits.slice(first, next)
    return [document.score(exit ? own.map((logit) => scale * logit + offset) : own)]
  })
}

function leaversOf(
  plan: Exclude<ExitPlan, { kind: 'never' }>,
  stage: number,
  estimates: readonly number[],
  finals: readonly number[],
): (estimate: number) => boolean {
  if (plan.kind === 'after') return () => stage === plan.exit
  const best = Float64Array.from([...finals, ...estimates]).sort()
  const wanted = best.at(-plan.topN) ?? Number.NEGATIVE_INFINITY
  const margin = plan.margins[stage] ?? Number.POSITIVE_INFINITY
  return (estimate) => estimate + margin < wanted
}

function* blocksOf(documents: readonly EncodedDocument[], most: number): Iterable<number[]> {
  let block: number[] = []
  let tokens = 0
  for (const [place, { pairs }] of documents.entries()) {
    const own = pairs.reduce((sum, { ids }) => sum + ids.length, 0)
    if (block.length > 0 && tokens + own > most) {
      yield block
      block = []
      tokens = 0
    }
    block.push(place)
    tokens += own
  }
  if (block.length > 0) yield block
}
