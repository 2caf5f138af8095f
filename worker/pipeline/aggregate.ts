/** Stage: scored candidates to a part, parts to a result. */
import type { RerankJob, ScoredPart } from '../../shared/job.js'
import { byRank } from '../../shared/ranking.js'
import type { RankedDocument, RerankResult, Timings, Usage } from '../../shared/request.js'

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
  const best = job.topN === null ? candidates : candidates.slice(0, job.topN)
  const results = best.map(({ index, score, window, snippet, document }): RankedDocument => {
    return {
      index,
      ...(document.id === undefined ? {} : { id: document.id }),
      relevance_score: score,
      ...(window === undefined ? {} : { window }),
      ...(snippet === undefined ? {} : { snippet }),
      ...(job.returnDocuments ? { document: { text: document.text } } : {}),
    }
  })
  return {
    id: job.requestId,
    model: parts[0]?.model ?? '',
    results,
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
