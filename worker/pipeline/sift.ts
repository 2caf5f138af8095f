/**
 * Stage: the candidates, and which of them the model scores. Where embeddings are stored beside a corpus, the filter uses
 * them; where it looks at no more, texts are read only of those that it keeps.
 */
import type { WorkerMetrics } from '../../monitoring/metrics.js'
import { isCorpusReference } from '../../shared/protocol/documents.js'
import type { MissingCandidate, RerankJob } from '../../shared/protocol/job.js'
import type { Prefilter } from '../../shared/protocol/strategy.js'
import { keepsAll } from './keep.js'
import { type Candidate, type CandidateLoader, isChanged } from './load-candidates.js'
import { type Filter, type Filtered, prefilter } from './prefilter.js'

export interface Sifted {
  readonly filtered: Filtered
  /** What the corpus lacks, where the request says that it be skipped. */
  readonly missing: readonly MissingCandidate[]
}

export interface SiftStages {
  readonly loader: CandidateLoader
  readonly scorers: { filter(name: string, by: Prefilter['by']): Promise<Filter> }
  readonly metrics: WorkerMetrics
}

/** Changes of a corpus in a row that one job follows. */
const ATTEMPTS = 20

/** @throws RankmillError of loading, of opening the filter, and of scoring with it; or the signal's reason */
export async function sift(job: RerankJob, stages: SiftStages, signal: AbortSignal): Promise<Sifted> {
  const { loader, scorers, metrics } = stages
  const { prefilter: wanted } = job
  if (wanted === null) {
    const { candidates, missing } = await metrics.time('load', () => loader.load(job))
    return { filtered: { kept: candidates, rest: [] }, missing }
  }
  const filter = await scorers.filter(wanted.model, wanted.by)
  const byEmbeddings = await siftEmbedded(job, wanted.keep, filter, stages, signal)
  if (byEmbeddings) return byEmbeddings
  const { candidates, missing } = await metrics.time('load', () => loader.load(job))
  const filtered = await metrics.time('prefilter', () => prefilter(job, wanted.keep, filter, candidates, signal))
  return { filtered, missing }
}

/** @returns undefined where there are no embeddings to look at, or nothing would be left out */
async function siftEmbedded(
  job: RerankJob,
  keep: Prefilter['keep'],
  filter: Filter,
  { loader, metrics }: SiftStages,
  signal: AbortSignal,
): Promise<Sifted | undefined> {
  const { documents, topN, fuse } = job
  const { context } = filter
  if (!isCorpusReference(documents) || context === undefined) return undefined
  if (keepsAll(keep, documents.ids.length, topN) && fuse === null) return undefined
  for (let attempt = 1; ; attempt++) {
    const embedded = await metrics.time('load', () => loader.loadEmbedded(job, context))
    if (!embedded) return undefined
    const { missing, version } = embedded
    const fill = (those: readonly Candidate[]) => metrics.time('load', () => loader.fill(job, version, those))
    try {
      const candidates = filter.readsTexts ? await fill(embedded.candidates) : embedded.candidates
      const look = () => prefilter(job, keep, filter, candidates, signal)
      const { kept, rest, ...by } = await metrics.time('prefilter', look)
      if (filter.readsTexts) return { filtered: { kept, rest, ...by }, missing }
      // What was left out is not read, but may be returned.
      const returned = job.returnDocuments ? await fill(rest) : rest
      return { filtered: { kept: await fill(kept), rest: returned, ...by }, missing }
    } catch (error) {
      if (!isChanged(error) || documents.version || attempt === ATTEMPTS) throw error
    }
  }
}
