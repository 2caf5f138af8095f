/** Last stage: the part, and with the last part the answer, into Redis; written once however often a job runs. */
import type { ErrorBody } from '../../shared/errors.js'
import type { Answer, RerankJob, ScoredPart } from '../../shared/protocol/job.js'
import type { Scripts } from '../../shared/redis/scripts.js'
import { mergeParts, trimPart } from './aggregate.js'

/** @returns whether this call answered the request */
export async function writePart(
  scripts: Scripts,
  job: RerankJob,
  scored: ScoredPart,
  now: () => number,
): Promise<boolean> {
  const part = trimPart(scored, job.topN)
  const parts =
    job.parts === 1
      ? [part]
      : (
          await scripts.writePart(
            job.requestId,
            job.part,
            JSON.stringify(withoutTexts(job, part)),
            job.parts,
            job.resultTtlMs,
          )
        ).map((text) => JSON.parse(text) as ScoredPart)
  if (parts.length < job.parts) return false
  const answer: Answer = { result: mergeParts(job, parts, now()) }
  return scripts.answer(job.requestId, JSON.stringify(answer), job.resultTtlMs)
}

export async function writeError(scripts: Scripts, job: RerankJob, error: ErrorBody): Promise<boolean> {
  const answer: Answer = { error }
  return scripts.answer(job.requestId, JSON.stringify(answer), job.resultTtlMs)
}

/** Parts carry texts only where the result shows them. */
function withoutTexts(job: RerankJob, part: ScoredPart): ScoredPart {
  if (job.returnDocuments) return part
  return { ...part, candidates: part.candidates.map((c) => ({ ...c, document: { ...c.document, text: '' } })) }
}
