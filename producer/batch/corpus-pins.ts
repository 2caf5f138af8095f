/** Keeps, for a whole run, the versions of the corpora that its requests name: those that were current when it met them. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RunChange } from './model-pins.js'

/** What pinning needs of a RerankClient. */
export interface PinningClient {
  pinCorpus(name: string, holder: string, ttlMs: number, version?: string): Promise<string>
  releaseCorpus(name: string, holder: string): Promise<void>
}

/** `file:` folders never change; their name says which. */
const FOLDER = 'file:'

/** What changes of a corpus are called, its name following. */
export const CORPUS = 'corpus '

export class CorpusPins {
  readonly #holder: string
  readonly #ttlMs: number
  readonly #mayChange: boolean
  readonly #onChange: (change: Omit<RunChange, 'after'>) => void
  readonly #versions: Map<string, string>
  /** By corpus: the pin of this start of the run. */
  readonly #pinned = new Map<string, Promise<string>>()

  /**
   * @param versions that earlier starts of the run pinned, by corpus
   * @param mayChange whether the run goes on with the current version where its own is gone
   */
  constructor(
    holder: string,
    ttlMs: number,
    versions: Readonly<Record<string, string>>,
    mayChange: boolean,
    onChange: (change: Omit<RunChange, 'after'>) => void,
  ) {
    this.#holder = holder
    this.#ttlMs = ttlMs
    this.#versions = new Map(Object.entries(versions))
    this.#mayChange = mayChange
    this.#onChange = onChange
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
    const corpus = pinnedBy(request)
    if (corpus === undefined) return request
    return { ...request, documents: { ...request.documents, version: await this.#versionOf(client, corpus) } as never }
  }

  /**
   * Pins again what the run has read so far: its pins may have run out while nobody kept them.
   *
   * @throws RankmillError `corpus_changed`
   */
  async resume(client: PinningClient): Promise<void> {
    for (const corpus of [...this.#versions.keys()]) {
      await this.#versionOf(client, corpus).catch((error) => {
        // Away for now: each request will ask again.
        if (!isGone(error)) return
        throw this.#lost(corpus, error)
      })
    }
  }

  /**
   * What becomes of a request that failed: an answer of its own, or the end of the run, whose corpus is gone.
   *
   * @returns whether to try it again, with the version that is current now
   * @throws RankmillError `corpus_changed`, which ends the run
   */
  survives(request: RerankInput, error: unknown): boolean {
    const corpus = pinnedBy(request)
    if (corpus === undefined || !isGone(error) || !this.#versions.has(corpus)) return false
    if (!this.#mayChange) throw this.#lost(corpus, error)
    this.#pinned.delete(corpus)
    return true
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
    const pinning = this.#pinVersion(client, corpus)
    this.#pinned.set(corpus, pinning)
    // What is not there now may be stored later.
    pinning.catch(() => this.#pinned.delete(corpus))
    return pinning
  }

  async #pinVersion(client: PinningClient, corpus: string): Promise<string> {
    const own = this.#versions.get(corpus)
    const pin = (version?: string) => client.pinCorpus(corpus, this.#holder, this.#ttlMs, version)
    const version = await pin(own).catch(async (error) => {
      if (own === undefined || !isGone(error) || !this.#mayChange) throw error
      await client.releaseCorpus(corpus, this.#holder)
      return pin()
    })
    this.#versions.set(corpus, version)
    if (own !== undefined && version !== own) this.#onChange({ what: `${CORPUS}${corpus}`, from: own, to: version })
    return version
  }

  #lost(corpus: string, cause: unknown): RankmillError {
    const message =
      `the run began with version ${this.#versions.get(corpus)} of corpus "${corpus}", and what kept it has run out: ` +
      `${RankmillError.from(cause).message}. --allow-corpus-change goes on with the current version, --overwrite begins anew`
    return new RankmillError('corpus_changed', message, { param: 'documents.corpus' }, { cause })
  }
}

/** The corpus that a request reads in whatever version the run does. */
function pinnedBy({ documents }: RerankInput): string | undefined {
  if (typeof documents !== 'object' || documents === null || !('corpus' in documents)) return undefined
  const { corpus, version } = documents
  if (version !== undefined || typeof corpus !== 'string' || corpus.startsWith(FOLDER)) return undefined
  return corpus
}

function isGone(error: unknown): boolean {
  return error instanceof RankmillError && (error.code === 'corpus_changed' || error.code === 'unknown_corpus')
}
