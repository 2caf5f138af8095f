/** Cuts a request into jobs of bounded size. */
import { candidateCount, isCorpusReference } from '../shared/protocol/documents.js'
import type { RerankJob } from '../shared/protocol/job.js'
import type { RerankRequest } from '../shared/protocol/request.js'

/**
 * The jobs of one request, in order of their offsets; one where it is small enough. Parts differ in size by one at
 * most, so that no worker is left with a crumb while another has a full share. A request with a prefilter or a
 * cascade stays whole: they compare all of its candidates. Early exits are decided in each part by itself: what cannot
 * come into the first `topN` of a part cannot come into those of the request.
 */
export function splitRequest(
  request: RerankRequest,
  maxJobPairs: number,
  submittedAt: number,
  resultTtlMs: number,
): RerankJob[] {
  const { documents, deadlineMs } = request
  const count = candidateCount(documents)
  const parts = request.prefilter === null && request.cascade.length === 0 ? Math.ceil(count / maxJobPairs) : 1
  return Array.from({ length: parts }, (_, part) => {
    const offset = Math.floor((part * count) / parts)
    const end = Math.floor(((part + 1) * count) / parts)
    return {
      v: 1,
      requestId: request.id,
      part,
      parts,
      offset,
      query: request.query,
      documents: isCorpusReference(documents)
        ? { ...documents, ids: documents.ids.slice(offset, end) }
        : parts === 1
          ? documents
          : documents.slice(offset, end),
      model: request.model,
      topN: request.topN,
      returnDocuments: request.returnDocuments,
      maxTokensPerDoc: request.maxTokensPerDoc,
      dtype: request.dtype,
      longDocuments: request.longDocuments,
      prefilter: request.prefilter,
      cascade: request.cascade,
      fuse: request.fuse,
      exit: request.exit,
      priority: request.priority,
      submittedAt,
      deadlineAt: deadlineMs === null ? null : submittedAt + deadlineMs,
      resultTtlMs,
    }
  })
}
