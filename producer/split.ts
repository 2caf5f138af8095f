/** Cuts a request into jobs of bounded size. */
import { candidateCount, isCorpusReference } from '../shared/protocol/documents.js'
import type { RerankJob } from '../shared/protocol/job.js'
import { needsOf } from '../shared/protocol/pool.js'
import type { RerankRequest } from '../shared/protocol/request.js'
import type { Opened } from '../shared/redis/request-life.js'

/**
 * How many jobs a request is cut into, if nobody has noted it before. One with a prefilter or a cascade stays whole: they
 * compare all of its candidates. Early exits are decided in each part by itself: what cannot come into the first `topN` of
 * a part cannot come into those of the request.
 */
export function partsOf({ documents, prefilter, cascade }: RerankRequest, maxJobPairs: number): number {
  return prefilter === null && cascade.length === 0 ? Math.ceil(candidateCount(documents) / maxJobPairs) : 1
}

/**
 * One job of a request. Parts differ in size by one at most, so that no worker is left with a crumb while another has a
 * full share.
 *
 * @param pinnedVersion of its corpus, where the request names none and all parts have to read the same
 */
export function partOf(
  request: RerankRequest,
  opened: Omit<Opened, 'life'>,
  part: number,
  pinnedVersion?: string,
): RerankJob {
  const { documents } = request
  const { generation, parts, submittedAt, deadlineAt } = opened
  const count = candidateCount(documents)
  const offset = Math.floor((part * count) / parts)
  const end = Math.floor(((part + 1) * count) / parts)
  return {
    // Who does not know instructions would score by none.
    v: request.instruction === null ? 2 : 3,
    requestId: request.id,
    generation,
    part,
    parts,
    offset,
    query: request.query,
    ...(request.instruction === null ? {} : { instruction: request.instruction }),
    ...(request.cacheSpace === undefined ? {} : { cacheSpace: request.cacheSpace }),
    ...(request.traceParent === undefined ? {} : { traceParent: request.traceParent }),
    documents: isCorpusReference(documents)
      ? { ...documents, version: pinnedVersion ?? documents.version, ids: documents.ids.slice(offset, end) }
      : parts === 1
        ? documents
        : documents.slice(offset, end),
    ...(pinnedVersion === undefined ? {} : { pinned: true }),
    model: needsOf(opened.pool).model,
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
    deadlineAt,
  }
}
