/** Stage: scored candidates to a part, parts to a result. */
import { RankmillError } from '../../shared/errors.js'
import type { MissingCandidate, RerankJob, ScoredCandidate, ScoredPart } from '../../shared/protocol/job.js'
import { byRank } from '../../shared/protocol/ranking.js'
import type { RankedDocument, RerankResult, Timings, Usage } from '../../shared/protocol/result.js'
import type { Cascaded } from './cascade.js'
import { fuse, modelShare } from './fuse.js'
import type { Filtered } from './prefilter.js'
import type { KnownScore } from './score-cache.js'
import type { Scored } from './score-candidates.js'
import type { Scorer } from './scorer.js'
import { scoresBehind } from './scores-behind.js'
import { addSpent } from './spent.js'

/**
 * One job's part. Behind all that the request's model scored come those that left it early (later exits first, then by their
 * scores there), those that cheaper models placed, and what a prefilter left out, each in their order: their scores are
 * estimates of the model's where there are any, and make the order (score descending) hold.
 */
export function composePart(
  job: RerankJob,
  { model, activate }: Pick<Scorer, 'model' | 'activate'>,
  { rest, by }: Omit<Filtered, 'kept'>,
  cascaded: Cascaded,
  missing: readonly MissingCandidate[],
  { scores, left, after, fromModel, spent }: Scored,
  queuedMs: number,
): ScoredPart {
  const { kept, placed } = cascaded
  const fused = by !== undefined && job.fuse !== null
  // The part says the model's name once; the result says it in each row.
  const scoredBy = (name: string) => (name === model.name ? {} : { scoredBy: name })
  const name = after === undefined ? model.name : nameOfExit(model.name, after)
  const read = kept.map(({ index }, i): KnownScore => {
    const score = scores[i] ?? left.get(i)?.score
    if (!score) throw new RankmillError('internal', `documents.${index} was not scored`)
    return score
  })
  const opinions = kept.flatMap(({ index, document }, i) => {
    const score = read[i]
    if (!score || left.has(i)) return []
    const place = scoredBy(fused ? `${name}+${by.opinion.name}` : name)
    const { logit } = score
    const candidate: ScoredCandidate = { index, score: activate(logit), logit, ...place, ...readOf(score), document }
    return [{ candidate, logit, filterScore: by?.opinion.scores.get(index) ?? 0 }]
  })
  const share = fused ? modelShare(job.fuse, model, by.opinion.name) : 1
  const ordered = fused ? fuse(opinions, job.fuse.by, share) : opinions.map(({ candidate }) => candidate)
  const lowest = ordered.reduce((low, { score }) => Math.min(low, score), Number.POSITIVE_INFINITY)
  const early = [...left]
    .sort(([a, one], [b, other]) => other.layer - one.layer || other.score.logit - one.score.logit || a - b)
    .flatMap(([place, { layer, score }]) =>
      kept[place] ? [{ candidate: kept[place], layer, logit: score.logit }] : [],
    )
  // Fused scores have no scale of their own: there, nothing can be estimated.
  const estimated = (logit: number | undefined) => (fused || logit === undefined ? undefined : activate(logit))
  const behind = [
    ...early.map(({ candidate, layer, logit }) => ({
      row: { ...candidate, ...scoredBy(nameOfExit(model.name, layer)) },
      estimate: estimated(logit),
    })),
    ...placed.map(({ candidate, score, by, estimate }) => ({
      row: { ...candidate, ...scoredBy(by), ...readOf(score) },
      estimate: estimated(estimate),
    })),
    ...rest.map((candidate) => ({ row: { ...candidate, ...scoredBy(by?.name ?? '') }, estimate: undefined })),
  ]
  const estimates = scoresBehind(
    behind.map(({ estimate }) => estimate),
    lowest,
  )
  const all = [...read, ...placed.map(({ score }) => score)]
  const { tokens, tokenizeMs, budgetWaitMs, batchWaitMs, inferenceMs } = addSpent(cascaded.spent, spent)
  return {
    model: model.name,
    dtype: model.dtype,
    fingerprint: model.fingerprint,
    candidates: [...ordered, ...behind.map(({ row }, i): ScoredCandidate => ({ ...row, score: estimates[i] ?? 0 }))],
    ...(missing.length > 0 ? { missing } : {}),
    usage: {
      pairs: kept.length + placed.length + rest.length,
      scored: cascaded.fromModel + fromModel,
      cached: cascaded.cached + kept.length - fromModel,
      prefiltered: rest.length,
      ...(by?.embeddings
        ? { embeddings_computed: by.embeddings.computed, embeddings_reused: by.embeddings.reused }
        : {}),
      ...(placed.length > 0 ? { cascaded: placed.length } : {}),
      exited_early: after === undefined ? left.size : kept.length,
      tokens,
      truncated: all.filter((score) => score.truncated).length,
      ...(job.longDocuments === 'windows'
        ? { windows: all.reduce((sum, score) => sum + (score.window?.count ?? 0), 0) }
        : {}),
    },
    timings: {
      queued: queuedMs,
      tokenize: tokenizeMs,
      budget_wait: budgetWaitMs,
      batch_wait: batchWaitMs,
      inference: inferenceMs,
      total: 0,
    },
  }
}

/** What rows say that an exit scored. */
function nameOfExit(model: string, layer: number): string {
  return `${model}@layer${layer}`
}

/** What a result row says of the text that its score is of. */
function readOf({ window, snippet }: KnownScore): Pick<ScoredCandidate, 'window' | 'snippet'> {
  const { count: _, ...place } = window ?? { count: 0 }
  return { ...('index' in place ? { window: place } : {}), ...(snippet ? { snippet } : {}) }
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
  const { model = '', dtype = '', fingerprint = '' } = parts[0] ?? {}
  const missing = parts.flatMap((part) => part.missing ?? []).sort((a, b) => a.index - b.index)
  const best = job.topN === null ? candidates : candidates.slice(0, job.topN)
  const results = best.map(({ index, score, scoredBy, window, snippet, document }): RankedDocument => {
    return {
      index,
      ...(document.id === undefined ? {} : { id: document.id }),
      relevance_score: score,
      scored_by: scoredBy ?? model,
      ...(window === undefined ? {} : { window }),
      ...(snippet === undefined ? {} : { snippet }),
      ...(job.returnDocuments ? { document: { text: document.text } } : {}),
    }
  })
  return {
    id: job.requestId,
    model,
    dtype,
    fingerprint,
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
    ...(a.cascaded === undefined ? {} : { cascaded: a.cascaded + (b.cascaded ?? 0) }),
    ...(a.embeddings_computed === undefined || a.embeddings_reused === undefined
      ? {}
      : {
          embeddings_computed: a.embeddings_computed + (b.embeddings_computed ?? 0),
          embeddings_reused: a.embeddings_reused + (b.embeddings_reused ?? 0),
        }),
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
    // Parts that an earlier release scored do not say it.
    budget_wait: Math.max(a.budget_wait ?? 0, b.budget_wait ?? 0),
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
