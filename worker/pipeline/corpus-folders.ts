/** The `file:` corpora that a worker has open. Requests name the folders, so they must lie in one that the worker allows. */
import { realpath, stat } from 'node:fs/promises'
import { join, relative, resolve, sep } from 'node:path'
import type { CorpusTexts } from '../../shared/corpus/corpora.js'
import {
  type CorpusDescription,
  CorpusFolder,
  DESCRIPTION_FILE,
  readDescription,
} from '../../shared/corpus/corpus-folder.js'
import { RankmillError } from '../../shared/errors.js'

interface OpenFolder {
  readonly folder: Promise<CorpusFolder>
  /** Readings under way: LMDB must not be closed under them. */
  users: number
  isClosing: boolean
}

/** Folders open at once; those that nobody reads are closed first. */
const MAX_OPEN = 64

export class CorpusFolders {
  readonly #root: string
  /** By folder and version, those that were used longest ago first. */
  readonly #open = new Map<string, OpenFolder>()
  readonly #descriptions = new Map<string, { readonly stamp: string; readonly description: CorpusDescription }>()

  /** @param root folder that all of them lie in; relative ones are looked for there */
  constructor(root: string) {
    this.#root = resolve(root)
  }

  /** @throws RankmillError `invalid_request` outside of the root, `unknown_corpus`, `invalid_corpus` */
  async currentVersion(named: string): Promise<string> {
    return (await this.#describe(await this.#place(named))).version
  }

  /**
   * @param version null: whichever is there
   * @throws RankmillError as `currentVersion`, or `corpus_changed` where another version is there
   */
  async read(named: string, version: string | null, ids: readonly string[]): Promise<CorpusTexts> {
    const place = await this.#place(named)
    const description = await this.#describe(place)
    if (version !== null && version !== description.version) {
      const message = `version ${version} of corpus "file:${named}" is not there: it was built anew as ${description.version}`
      throw new RankmillError('corpus_changed', message, { param: 'documents.version' })
    }
    const key = `${description.version} ${place}`
    const entry = this.#open.get(key) ?? { folder: CorpusFolder.open(place, description), users: 0, isClosing: false }
    // Last in the map's order: most recently used.
    this.#open.delete(key)
    this.#open.set(key, entry)
    entry.users++
    try {
      return { version: description.version, texts: await (await entry.folder).read(ids) }
    } catch (error) {
      // What could not be opened may be mended.
      if (this.#open.get(key) === entry) this.#open.delete(key)
      entry.isClosing = true
      throw error
    } finally {
      entry.users--
      await this.#closeIdle(entry)
    }
  }

  async close(): Promise<void> {
    for (const entry of this.#open.values()) {
      entry.isClosing = true
      await this.#closeIdle(entry)
    }
    this.#open.clear()
  }

  async #closeIdle(used: OpenFolder): Promise<void> {
    if (used.isClosing && used.users === 0) await closeFolder(used)
    for (const [key, entry] of this.#open) {
      if (this.#open.size <= MAX_OPEN) return
      if (entry.users > 0) continue
      this.#open.delete(key)
      await closeFolder(entry)
    }
  }

  /** The real folder, links resolved, checked before anything is said of what is there. */
  async #place(named: string): Promise<string> {
    const place = resolve(this.#root, named)
    if (!isWithin(this.#root, place)) throw this.#outside(named)
    try {
      const [root, real] = await Promise.all([realpath(this.#root), realpath(place)])
      if (!isWithin(root, real)) throw this.#outside(named)
      return real
    } catch (error) {
      if (error instanceof RankmillError) throw error
      return place
    }
  }

  #outside(named: string): RankmillError {
    const message = `documents.corpus: "file:${named}" is not in ${this.#root}, the folder that the worker’s --corpus-root allows`
    return new RankmillError('invalid_request', message, { param: 'documents.corpus' })
  }

  /** Reads the description again only when its file is another. */
  async #describe(place: string): Promise<CorpusDescription> {
    const found = await stat(join(place, DESCRIPTION_FILE)).catch(() => undefined)
    const stamp = found ? `${found.dev} ${found.ino} ${found.mtimeMs} ${found.size}` : ''
    const known = this.#descriptions.get(place)
    if (known && known.stamp === stamp) return known.description
    const description = await readDescription(place)
    if (this.#descriptions.size >= MAX_OPEN) this.#descriptions.clear()
    this.#descriptions.set(place, { stamp, description })
    return description
  }
}

async function closeFolder({ folder }: OpenFolder): Promise<void> {
  await folder.then(
    (opened) => opened.close(),
    () => undefined,
  )
}

function isWithin(root: string, place: string): boolean {
  const way = relative(root, place)
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && resolve(way) !== way)
}
