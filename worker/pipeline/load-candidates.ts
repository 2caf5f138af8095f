/**
 * First stage: a job's candidates with their texts, from the job itself or from a corpus; or with their embeddings where
 * these are stored and a prefilter asks for no more.
 */
import { LRUCache } from 'lru-cache'
import type { CorpusTexts, EmbeddedPassages } from '../../shared/corpus/corpora.js'
import { folderOf } from '../../shared/corpus/corpus-name.js'
import { RankmillError } from '../../shared/errors.js'
import { type CorpusReference, type Document, isCorpusReference } from '../../shared/protocol/documents.js'
import type { MissingCandidate, RerankJob } from '../../shared/protocol/job.js'
import { type Embedding, unpackEmbedding } from '../embedding.js'
import type { EmbeddingCache } from './embedding-cache.js'

export interface Candidate {
  /** Index in the whole request. */
  readonly index: number
  readonly document: Document
  /** Where it is known already, the text may not have been read: '' until then. */
  readonly embedding?: Embedding
}

export interface LoadedCandidates {
  readonly candidates: Candidate[]
  /** What the corpus lacks, where the request says that it be skipped. */
  readonly missing: MissingCandidate[]
}

/** Candidates of which those that have an embedding have no text yet. */
export interface EmbeddedCandidates extends LoadedCandidates {
  readonly version: string
}

/** Where embeddings are stored beside the passages. */
export interface EmbeddedSource extends PassageSource {
  hasEmbeddings(corpus: string, context: string): Promise<boolean>
  readEmbedded(corpus: string, version: string, context: string, ids: readonly string[]): Promise<EmbeddedPassages>
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
  readonly #corpora: EmbeddedSource
  readonly #folders: PassageSource
  readonly #texts: LRUCache<string, string> | undefined
  readonly #embeddings: EmbeddingCache

  constructor(corpora: EmbeddedSource, folders: PassageSource, cacheBytes: number, embeddings: EmbeddingCache) {
    this.#corpora = corpora
    this.#embeddings = embeddings
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
    const texts = await this.#resolve(job.documents)
    return chosen(job.offset, job.documents, (i) => {
      const text = texts[i]
      return text === undefined ? undefined : { text }
    })
  }

  /**
   * The candidates of a corpus in Redis by their embeddings, as far as these are stored.
   *
   * @param context hash of what embeddings depend on
   * @returns undefined where none are stored: `load` does it then
   * @throws RankmillError as `load`
   */
  async loadEmbedded(job: RerankJob, context: string): Promise<EmbeddedCandidates | undefined> {
    if (!isCorpusReference(job.documents)) return undefined
    const { corpus, ids } = job.documents
    if (folderOf(corpus) !== undefined || !(await this.#corpora.hasEmbeddings(corpus, context))) return undefined
    for (let attempt = 1; ; attempt++) {
      const version = job.documents.version ?? (await this.#corpora.currentVersion(corpus))
      try {
        const entries = await this.#entries(corpus, version, context, ids)
        return { version, ...chosen(job.offset, job.documents, (i) => entries.get(ids[i] ?? '')) }
      } catch (error) {
        if (!isChanged(error) || job.documents.version || attempt === ATTEMPTS) throw error
      }
    }
  }

  /**
   * Reads the texts of those that `loadEmbedded` gave without.
   *
   * @throws RankmillError `corpus_changed` where the version is gone meanwhile
   */
  async fill(job: RerankJob, version: string, candidates: readonly Candidate[]): Promise<Candidate[]> {
    if (!isCorpusReference(job.documents)) return [...candidates]
    const { corpus } = job.documents
    const ids = candidates.flatMap(({ embedding, document: { id } }) => (embedding && id !== undefined ? [id] : []))
    const texts = await this.#read(this.#corpora, corpus, `${version} ${corpus} `, version, ids)
    const byId = new Map(ids.map((id, i) => [id, texts[i]]))
    return candidates.map(({ index, embedding, document }) => {
      if (!embedding) return { index, document }
      const text = byId.get(document.id ?? '')
      if (text === undefined)
        throw new RankmillError('internal', `documents.${index} is not in version ${version} any more`)
      return { index, embedding, document: { ...document, text } }
    })
  }

  async #entries(
    corpus: string,
    version: string,
    context: string,
    ids: readonly string[],
  ): Promise<Map<string, { text: string; embedding?: Embedding }>> {
    const entries = new Map<string, { text: string; embedding?: Embedding }>()
    const absent = new Set<string>()
    for (const id of ids) {
      const embedding = this.#embeddings.recallPassage(context, corpus, version, id)
      if (embedding) entries.set(id, { text: '', embedding })
      else absent.add(id)
    }
    if (absent.size === 0) return entries
    const asked = [...absent]
    const read = await this.#corpora.readEmbedded(corpus, version, context, asked)
    asked.forEach((id, i) => {
      const entry = read.entries[i]
      if (entry && 'text' in entry) {
        this.#texts?.set(`${version} ${corpus} ${id}`, entry.text)
        entries.set(id, { text: entry.text })
      }
      const embedding = entry && 'embedding' in entry ? unpackEmbedding(entry.embedding) : undefined
      if (!embedding) return
      this.#embeddings.rememberPassage(context, corpus, version, id, embedding)
      entries.set(id, { text: '', embedding })
    })
    return entries
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
        if (!isChanged(error) || version || attempt === ATTEMPTS) throw error
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

function chosen(
  offset: number,
  { corpus, ids, scores, missing: onMissing }: CorpusReference,
  entryAt: (i: number) => { text: string; embedding?: Embedding } | undefined,
): LoadedCandidates {
  const candidates: Candidate[] = []
  const missing: MissingCandidate[] = []
  ids.forEach((id, i) => {
    const [index, entry, score] = [offset + i, entryAt(i), scores?.[i]]
    if (entry === undefined) missing.push({ index, id })
    else {
      const { text, embedding } = entry
      const document = { id, text, ...(score === undefined ? {} : { score }) }
      candidates.push({ index, document, ...(embedding ? { embedding } : {}) })
    }
  })
  if (missing.length > 0 && onMissing === 'error') throw missingDocuments(corpus, missing)
  return { candidates, missing }
}

/** Whether a version of a corpus is not there any more. */
export function isChanged(error: unknown): boolean {
  return error instanceof RankmillError && error.code === 'corpus_changed'
}

function missingDocuments(corpus: string, missing: readonly MissingCandidate[]): RankmillError {
  const shown = missing.slice(0, MISSING_SHOWN).map(({ id }) => JSON.stringify(id))
  const more = missing.length > shown.length ? ` and ${missing.length - shown.length} more` : ''
  const message = `documents.ids: corpus "${corpus}" lacks ${missing.length} of these: ${shown.join(', ')}${more}`
  return new RankmillError('missing_documents', message, { param: 'documents.ids' })
}
