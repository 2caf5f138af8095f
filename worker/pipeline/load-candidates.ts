/** First stage: a job's candidates with their texts, from the job itself or from a corpus. */
import { LRUCache } from 'lru-cache'
import { folderOf } from '../../shared/corpus/corpus-name.js'
import type { CorpusTexts } from '../../shared/corpus.js'
import { RankmillError } from '../../shared/errors.js'
import type { MissingCandidate, RerankJob } from '../../shared/job.js'
import { type CorpusReference, type Document, isCorpusReference } from '../../shared/request.js'

export interface Candidate {
  /** Index in the whole request. */
  readonly index: number
  readonly document: Document
}

export interface LoadedCandidates {
  readonly candidates: Candidate[]
  /** What the corpus lacks, where the request says that it be skipped. */
  readonly missing: MissingCandidate[]
}

/** Where passages are read from by id: Redis, or folders. */
export interface PassageSource {
  currentVersion(corpus: string): Promise<string>
  read(corpus: string, version: string | null, ids: readonly string[]): Promise<CorpusTexts>
}

/** Ids named in the message of `missing_documents`. */
const MISSING_SHOWN = 20
/** Changes of a corpus in a row that one job follows. */
const ATTEMPTS = 20

export class CandidateLoader {
  readonly #corpora: PassageSource
  readonly #folders: PassageSource
  readonly #texts: LRUCache<string, string> | undefined

  constructor(corpora: PassageSource, folders: PassageSource, cacheBytes: number) {
    this.#corpora = corpora
    this.#folders = folders
    this.#texts =
      cacheBytes > 0
        ? new LRUCache({ maxSize: cacheBytes, sizeCalculation: (text, key) => 2 * (text.length + key.length) + 100 })
        : undefined
  }

  /** @throws RankmillError `unknown_corpus`, `invalid_corpus`, `corpus_changed` or `missing_documents` */
  async load(job: RerankJob): Promise<LoadedCandidates> {
    if (!isCorpusReference(job.documents)) {
      return { candidates: job.documents.map((document, i) => ({ index: job.offset + i, document })), missing: [] }
    }
    const { corpus, ids } = job.documents
    const texts = await this.#resolve(job.documents)
    const candidates: Candidate[] = []
    const missing: MissingCandidate[] = []
    ids.forEach((id, i) => {
      const [index, text] = [job.offset + i, texts[i]]
      if (text === undefined) missing.push({ index, id })
      else candidates.push({ index, document: { id, text } })
    })
    if (missing.length > 0 && job.documents.missing !== 'skip') throw missingDocuments(corpus, missing)
    return { candidates, missing }
  }

  /** All texts are of one version. */
  async #resolve({ corpus, version, ids }: CorpusReference): Promise<(string | undefined)[]> {
    const folder = folderOf(corpus)
    const [source, name] = folder === undefined ? [this.#corpora, corpus] : [this.#folders, folder]
    for (let attempt = 1; ; attempt++) {
      const wanted = version ?? (await source.currentVersion(name))
      try {
        return await this.#read(source, name, `${wanted} ${corpus} `, wanted, ids)
      } catch (error) {
        const changed = error instanceof RankmillError && error.code === 'corpus_changed'
        if (!changed || version || attempt === ATTEMPTS) throw error
      }
    }
  }

  async #read(
    source: PassageSource,
    name: string,
    cachePrefix: string,
    version: string,
    ids: readonly string[],
  ): Promise<(string | undefined)[]> {
    const texts = ids.map((id) => this.#texts?.get(cachePrefix + id))
    const absent = [...new Set(ids.filter((_, i) => texts[i] === undefined))]
    if (absent.length === 0) return texts
    const found = (await source.read(name, version, absent)).texts
    const fetched = new Map<string, string>()
    absent.forEach((id, i) => {
      const text = found[i]
      if (text === undefined) return
      fetched.set(id, text)
      this.#texts?.set(cachePrefix + id, text)
    })
    return texts.map((text, i) => text ?? fetched.get(ids[i] ?? ''))
  }
}

function missingDocuments(corpus: string, missing: readonly MissingCandidate[]): RankmillError {
  const shown = missing.slice(0, MISSING_SHOWN).map(({ id }) => JSON.stringify(id))
  const more = missing.length > shown.length ? ` and ${missing.length - shown.length} more` : ''
  const message = `documents.ids: corpus "${corpus}" lacks ${missing.length} of these: ${shown.join(', ')}${more}`
  return new RankmillError('missing_documents', message, { param: 'documents.ids' })
}
