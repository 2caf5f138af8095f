/** Content hashes: the same hash means the same request. */
import { createHash } from 'node:crypto'
import { isCorpusReference } from './documents.js'
import type { RerankRequest } from './request.js'

/**
 * Hash of everything that changes what a request answers. The id, the priority and the deadline are left out: they
 * change when, not what.
 */
export function fingerprintOf(request: RerankRequest): string {
  const { query, cacheSpace, instruction, documents, model, topN, returnDocuments, maxTokensPerDoc } = request
  const { dtype, longDocuments, prefilter, cascade, fuse, exit } = request
  const strategy = [dtype, longDocuments, prefilter, cascade, fuse, exit]
  // One text: each call of the hash costs as much as hashing a passage.
  let content = JSON.stringify([2, query, model, topN, returnDocuments, maxTokensPerDoc, strategy])
  // Who may not share scores may not share the work either: how soon it is done would tell.
  if (cacheSpace !== undefined) content += JSON.stringify({ cacheSpace })
  if (instruction !== null) content += JSON.stringify({ instruction })
  // JSON delimits and escapes, so that no two lists of documents run into the same bytes.
  if (isCorpusReference(documents)) {
    const { corpus, version, ids, missing, scores } = documents
    content += JSON.stringify([corpus, version, missing, ids, ...(scores ? [scores] : [])])
  } else {
    for (const { id, text, score } of documents) {
      // Spelled out, since an array for each costs more than its text.
      const name = id === undefined ? 'null' : JSON.stringify(id)
      content += `[${name},${JSON.stringify(text)}${score === undefined ? '' : `,${JSON.stringify(score)}`}]`
    }
  }
  return createHash('sha256').update(content).digest('hex').slice(0, 32)
}
