/** Content hashes: the same hash means the same request. */
import { createHash } from 'node:crypto'
import { isCorpusReference } from './documents.js'
import type { RerankRequest } from './request.js'

/**
 * Hash of everything that changes what a request answers. The id, the priority and the deadline are left out: they
 * change when, not what.
 */
export function fingerprintOf(request: RerankRequest): string {
  const hash = createHash('sha256')
  const { query, cacheSpace, instruction, documents, model, topN, returnDocuments, maxTokensPerDoc } = request
  const { dtype, longDocuments, prefilter, cascade, fuse, exit } = request
  const strategy = [dtype, longDocuments, prefilter, cascade, fuse, exit]
  hash.update(JSON.stringify([2, query, model, topN, returnDocuments, maxTokensPerDoc, strategy]))
  // Who may not share scores may not share the work either: how soon it is done would tell.
  if (cacheSpace !== undefined) hash.update(JSON.stringify({ cacheSpace }))
  if (instruction !== null) hash.update(JSON.stringify({ instruction }))
  // JSON delimits and escapes, so that no two lists of documents run into the same bytes.
  if (isCorpusReference(documents)) {
    const { corpus, version, ids, missing, scores } = documents
    hash.update(JSON.stringify([corpus, version, missing, ids, ...(scores ? [scores] : [])]))
  } else {
    for (const { id, text, score } of documents)
      hash.update(JSON.stringify([id ?? null, text, ...(score === undefined ? [] : [score])]))
  }
  return hash.digest('hex').slice(0, 32)
}
