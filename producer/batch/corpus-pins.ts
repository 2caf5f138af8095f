/** Keeps, for a whole run, the versions of the corpora that its requests name: those that were current when it met them. */
import type { RerankInput } from '../../shared/protocol/request.js'

/** What pinning needs of a RerankClient. */
export interface PinningClient {
  pinCorpus(name: string, holder: string, ttlMs: number, version?: string): Promise<string>
  releaseCorpus(name: string, holder: string): Promise<void>
}

/** `file:` folders never change; their name says which. */
const FOLDER = 'file:'

export class CorpusPins {
  readonly #holder: string
  readonly #ttlMs: number
  readonly #versions: Map<string, string>
  /** By corpus: the pin of this start of the run. */
  readonly #pinned = new Map<string, Promise<string>>()

  /** @param versions that earlier starts of the run pinned, by corpus */
  constructor(holder: string, ttlMs: number, versions: Readonly<Record<string, string>>) {
    this.#holder = holder
    this.#ttlMs = ttlMs
    this.#versions = new Map(Object.entries(versions))
  }

  /** By corpus. */
  get versions(): Record<string, string> {
    return Object.fromEntries(this.#versions)
  }

  /**
   * A request with the version that the run reads, where it names a corpus and no version.
   *
   * @throws RankmillError `unknown_corpus`, `corpus_changed` where the run's version is gone, `redis_unavailable`
   */
  async pin<T extends RerankInput>(client: PinningClient, request: T): Promise<T> {
    const { documents } = request
    if (typeof documents !== 'object' || documents === null || !('corpus' in documents)) return request
    const { corpus, version } = documents
    if (version !== undefined || typeof corpus !== 'string' || corpus.startsWith(FOLDER)) return request
    return { ...request, documents: { ...documents, version: await this.#versionOf(client, corpus) } }
  }

  /** Makes the pins last from now on as long as new ones; to be called well before they end. */
  async renew(client: PinningClient): Promise<void> {
    for (const [corpus, version] of this.#versions) {
      await client.pinCorpus(corpus, this.#holder, this.#ttlMs, version).catch(() => undefined)
    }
  }

  async release(client: PinningClient): Promise<void> {
    for (const corpus of this.#versions.keys()) await client.releaseCorpus(corpus, this.#holder).catch(() => undefined)
  }

  #versionOf(client: PinningClient, corpus: string): Promise<string> {
    const known = this.#pinned.get(corpus)
    if (known) return known
    const pinning = client.pinCorpus(corpus, this.#holder, this.#ttlMs, this.#versions.get(corpus)).then((version) => {
      this.#versions.set(corpus, version)
      return version
    })
    this.#pinned.set(corpus, pinning)
    // What is not there now may be stored later.
    pinning.catch(() => this.#pinned.delete(corpus))
    return pinning
  }
}
