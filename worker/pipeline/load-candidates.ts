/** First stage: a job's candidates with their texts, from the job itself or from a corpus. */
import { LRUCache } from 'lru-cache'
import type { Corpora } from '../../shared/corpus.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/job.js'
import { type CorpusReference, type Document, isCorpusReference } from '../../shared/request.js'

export interface Candidate {
  /** Index in the whole request. */
  readonly index: number
  readonly document: Document
}

/** Ids named in the message of `missing_documents`. */
const MISSING_SHOWN = 20

export class CandidateLoader {
  readonly #corpora: Corpora
  readonly #texts: LRUCache<string, string> | undefined

  constructor(corpora: Corpora, cacheBytes: number) {
    this.#corpora = corpora
    this.#texts =
      cacheBytes > 0
        ? new LRUCache({ maxSize: cacheBytes, sizeCalculation: (text, key) => 2 * (text.length + key.length) + 100 })
        : undefined
  }

  /** @throws RankmillError `unknown_corpus` or `missing_documents` */
  async load(job: RerankJob): Promise<Candidate[]> {
    const documents = isCorpusReference(job.documents) ? await this.#resolve(job.documents) : job.documents
    return documents.map((document, i) => ({ index: job.offset + i, document }))
  }

  async #resolve({ corpus, ids }: CorpusReference): Promise<Document[]> {
    const { version, passages } = await this.#corpora.info(corpus)
    if (passages === 0)
      throw new RankmillError('unknown_corpus', `documents.corpus: there is no corpus "${corpus}"`, {
        param: 'documents.corpus',
      })
    const keyOf = (id: string) => `${version} ${corpus} ${id}`
    const texts = ids.map((id) => this.#texts?.get(keyOf(id)))
    const absent = ids.filter((_, i) => texts[i] === undefined)
    const fetched = new Map<string, string | undefined>()
    if (absent.length > 0) {
      const found = await this.#corpora.read(corpus, absent)
      absent.forEach((id, i) => {
        const text = found[i]
        fetched.set(id, text)
        if (text !== undefined) this.#texts?.set(keyOf(id), text)
      })
    }
    const missing: string[] = []
    const documents = ids.map((id, i): Document => {
      const text = texts[i] ?? fetched.get(id)
      if (text === undefined) missing.push(id)
      return { id, text: text ?? '' }
    })
    if (missing.length > 0) throw missingDocuments(corpus, missing)
    return documents
  }
}

function missingDocuments(corpus: string, missing: readonly string[]): RankmillError {
  const shown = missing.slice(0, MISSING_SHOWN).map((id) => JSON.stringify(id))
  const more = missing.length > shown.length ? ` and ${missing.length - shown.length} more` : ''
  const message = `documents.ids: corpus "${corpus}" has no passage ${shown.join(', ')}${more}`
  return new RankmillError('missing_documents', message, { param: 'documents.ids' })
}
