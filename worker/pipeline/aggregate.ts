/** Stage: scored candidates to a part, parts to a result. */
import { RankmillError } from '../../shared/errors.js'
import type { MissingCandidate, RerankJob, ScoredCandidate, ScoredPart } from '../../shared/job.js'
import { byRank } from '../../shared/ranking.js'
import type { RankedDocument, RerankResult, Timings, Usage } from '../../shared/request.js'
import type { Scorer } from '../scorers.js'
import type { EarlyScore } from './early-exit.js'
import { fuse } from './fuse.js'
import type { Filtered } from './prefilter.js'
import type { KnownScore } from './score-cache.js'
import type { Spent } from './score-pairs.js'

/** The candidates that the model looked at, in their order, with their scores. */
export interface Scored {
  readonly scores: readonly (KnownScore | undefined)[]
  /** Those that have no score because they left the model early, by their places. */
  readonly left: ReadonlyMap<number, EarlyScore>
  /** The layer that all left the model after; their scores are those of this exit. */
  readonly after: number | undefined
  /** Whether candidates might have left the model. */
  readonly mayLeave: boolean
  /** Candidates that went through the model for this job, or part of it. */
  readonly fromModel: number
  readonly spent: Spent
}

/**
 * One job's part. Behind all that have a score come those that left the model early (later exits first, then by their
 * scores there), and then what a prefilter left out, in the filter's order. The scores of both are none of the model's, but
 * make the order (score descending) hold.
 */
export function composePart(
  job: RerankJob,
  { model, activate }: Pick<Scorer, 'model' | 'activate'>,
  { kept, rest, by }: Filtered,
  missing: readonly MissingCandidate[],
  { scores, left, after, mayLeave, fromModel, spent }: Scored,
  queuedMs: number,
): ScoredPart {
  const fused = by !== undefined && job.fuse !== null
  const scoredBy = (name: string) => (rest.length > 0 || fused || mayLeave ? { scoredBy: name } : {})
  const name = after === undefined ? model.name : nameOfExit(model.name, after)
  let truncated = 0
  let windows = 0
  const scored = kept.flatMap(({ index, document }, i): ScoredCandidate[] => {
    const score = scores[i] ?? left.get(i)?.score
    if (!score) throw new RankmillError('internal', `documents.${index} was not scored`)
    if (score.truncated) truncated++
    const { logit, snippet } = score
    const { count, ...window } = score.window ?? { count: 0 }
    windows += count
    if (left.has(i)) return []
    return [
      {
        index,
        score: activate(logit),
        ...scoredBy(fused ? `${name}+${by.name}` : name),
        ...('index' in window ? { window } : {}),
        ...(snippet ? { snippet } : {}),
        document,
      },
    ]
  })
  const ordered = fused ? fuse(scored, by.ranks, job.fuse) : scored
  const lowest = ordered.reduce((low, { score }) => Math.min(low, score), Number.POSITIVE_INFINITY)
  const early = [...left]
    .sort(([a, one], [b, other]) => other.layer - one.layer || other.score.logit - one.score.logit || a - b)
    .flatMap(([place, { layer }]) => (kept[place] ? [{ ...kept[place], by: nameOfExit(model.name, layer) }] : []))
  const unscored = [...early, ...rest.map((candidate) => ({ ...candidate, by: by?.name ?? '' }))]
  const behind = unscored.map(({ index, document, by }, i): ScoredCandidate => {
    return { index, score: below(lowest, (i + 1) / (unscored.length + 1)), ...scoredBy(by), document }
  })
  return {
    model: model.name,
    candidates: [...ordered, ...behind],
    ...(missing.length > 0 ? { missing } : {}),
    usage: {
      pairs: kept.length + rest.length,
      scored: fromModel,
      cached: kept.length - fromModel,
      prefiltered: rest.length,
      exited_early: after === undefined ? left.size : kept.length,
      tokens: spent.tokens,
      truncated,
      ...(job.longDocuments === 'windows' ? { windows } : {}),
    },
    timings: {
      queued: queuedMs,
      tokenize: spent.tokenizeMs,
      batch_wait: spent.batchWaitMs,
      inference: spent.inferenceMs,
      total: 0,
    },
  }
}

/** What rows say that an exit scored. */
function nameOfExit(model: string, layer: number): string {
  return `${model}@layer${layer}`
}

/** A number below `lowest`, the further the larger the share; between 0 and a positive one. */
function below(lowest: number, share: number): number {
  return lowest > 0 ? lowest * (1 - share) : lowest - share
}

/** Keeps of a part what can come into the result: its first topN. */
export function trimPart(part: ScoredPart, topN: number | null): ScoredPart {
  const candidates = [...part.candidates].sort(byRank)
  return { ...part, candidates: topN === null ? candidates : candidates.slice(0, topN) }
}

/**
 * The result of a request from all of its parts, whatever their order. Usage adds up; the parts ran side by side, so of
 * the timings the longest counts.
 */
export function mergeParts(job: RerankJob, parts: readonly ScoredPart[], now: number): RerankResult {
  const candidates = parts.flatMap((part) => part.candidates).sort(byRank)
  const missing = parts.flatMap((part) => part.missing ?? []).sort((a, b) => a.index - b.index)
  const best = job.topN === null ? candidates : candidates.slice(0, job.topN)
  const results = best.map(({ index, score, scoredBy, window, snippet, document }): RankedDocument => {
    return {
      index,
      ...(document.id === undefined ? {} : { id: document.id }),
      relevance_score: score,
      ...(scoredBy === undefined ? {} : { scored_by: scoredBy }),
      ...(window === undefined ? {} : { window }),
      ...(snippet === undefined ? {} : { snippet }),
      ...(job.returnDocuments ? { document: { text: document.text } } : {}),
    }
  })
  return {
    id: job.requestId,
    model: parts[0]?.model ?? '',
    results,
    ...(missing.length > 0 ? { missing: missing.map(({ id }) => id) } : {}),
    usage: parts.map((part) => part.usage).reduce(addUsage),
    timings_ms: roundTimings({
      ...parts.map((part) => part.timings).reduce(longestTimings),
      total: now - job.submittedAt,
    }),
  }
}

function addUsage(a: Usage, b: Usage): Usage {
  return {
    pairs: a.pairs + b.pairs,
    scored: a.scored + b.scored,
    cached: a.cached + b.cached,
    prefiltered: a.prefiltered + b.prefiltered,
    exited_early: a.exited_early + b.exited_early,
    tokens: a.tokens + b.tokens,
    truncated: a.truncated + b.truncated,
    ...(a.windows === undefined ? {} : { windows: a.windows + (b.windows ?? 0) }),
  }
}

function longestTimings(a: Timings, b: Timings): Timings {
  return {
    queued: Math.max(a.queued, b.queued),
    tokenize: Math.max(a.tokenize, b.tokenize),
    batch_wait: Math.max(a.batch_wait, b.batch_wait),
    inference: Math.max(a.inference, b.inference),
    total: Math.max(a.total, b.total),
  }
}

function roundTimings(timings: Timings): Timings {
  const rounded = { ...timings }
  for (const key of Object.keys(rounded) as (keyof Timings)[]) rounded[key] = Math.round(rounded[key] * 100) / 100
  return rounded
}
