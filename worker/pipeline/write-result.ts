/** Last stage: the part, and with the last part the answer, into Redis; written once however often a job runs. */
import type { RerankJob, ScoredPart } from '../../shared/protocol/job.js'
import { completedEnd, type HeldJob, type RequestLife, type Taken } from '../../shared/redis/request-life.js'
import { mergeParts, trimPart } from './aggregate.js'

export interface Written {
  /** `kept`: others have still to come; `elsewhere`: the request is in another score space by now. */
  readonly outcome: 'written' | 'kept' | 'elsewhere' | 'answered' | 'stale' | 'gone' | 'wanted'
  /** From submission to answer, where this call wrote it. */
  readonly durationMs: number
}

/** What a worker writes with: its name, what it holds, and what it was told when it took it. */
export interface Holder {
  readonly life: RequestLife
  readonly worker: string
  readonly held: HeldJob
  readonly taken: Pick<Taken, 'shared'>
  /** The score space of what it writes. */
  readonly space: string
  readonly now: () => number
}

export async function writePart(holder: Holder, job: RerankJob, scored: ScoredPart): Promise<Written> {
  const part = trimPart(scored, job.topN)
  if (job.parts === 1) return writeResult(holder, job, [part])
  const data = JSON.stringify(withoutTexts(job, part))
  const all = await holder.life.writePart(holder.worker, holder.held, data, holder.space)
  if (typeof all === 'string') return { outcome: all as Written['outcome'], durationMs: 0 }
  return writeResult(
    holder,
    job,
    all.map((text) => JSON.parse(text) as ScoredPart),
  )
}

/** The answer, from all parts. */
export async function writeResult(
  { life, worker, held, taken, now }: Holder,
  job: RerankJob,
  parts: readonly ScoredPart[],
): Promise<Written> {
  const { requestId: id, generation } = job
  const end = completedEnd(mergeParts(job, parts, now()), generation)
  return life.answer({ id, generation, shared: taken.shared }, end, { worker, job: held })
}

/** Parts carry texts only where the result shows them. */
function withoutTexts(job: RerankJob, part: ScoredPart): ScoredPart {
  if (job.returnDocuments) return part
  return { ...part, candidates: part.candidates.map((c) => ({ ...c, document: { ...c.document, text: '' } })) }
}
