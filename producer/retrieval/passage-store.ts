/** The passages that a run names, read once from a corpus of any size: in memory, or in a file once they are many. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { RankmillError } from '../../shared/errors.js'
import { readCorpus } from './beir.js'
import type { Source } from './lines.js'

export interface PassageStoreOptions {
  /** Passages are held in memory up to this size together, beyond it in a file. */
  readonly maxMemoryBytes?: number
  /** Where that file goes, in a folder of its own that `close` removes. Default: the system's temporary folder. */
  readonly scratchFolder?: string
}

const DEFAULT_MEMORY_BYTES = 256 * 2 ** 20
/** Passages written to the file at once. */
const CHUNK = 1000

interface Scratch {
  readonly folder: string
  /** By the passage's place among the wanted ids: LMDB's keys are short, ids need not be. */
  readonly database: RootDatabase<string, number>
}

export class PassageStore {
  readonly #places: ReadonlyMap<string, number>
  readonly #texts = new Map<string, string>()
  readonly #found: Uint8Array
  #scratch: Scratch | null = null

  private constructor(wanted: Iterable<string>) {
    const places = new Map<string, number>()
    for (const id of wanted) if (!places.has(id)) places.set(id, places.size)
    this.#places = places
    this.#found = new Uint8Array(places.size)
  }

  /**
   * Reads a BEIR corpus and keeps the passages under the wanted ids.
   *
   * @throws RankmillError `invalid_request` as readCorpus does, `invalid_configuration` where the scratch folder cannot
   *   be written
   */
  static async read(
    corpus: Source,
    wanted: Iterable<string>,
    { maxMemoryBytes = DEFAULT_MEMORY_BYTES, scratchFolder = tmpdir() }: PassageStoreOptions = {},
  ): Promise<PassageStore> {
    const store = new PassageStore(wanted)
    try {
      await store.#read(corpus, maxMemoryBytes, scratchFolder)
      return store
    } catch (error) {
      await store.close()
      throw error
    }
  }

  async #read(corpus: Source, maxMemoryBytes: number, scratchFolder: string): Promise<void> {
    let bytes = 0
    for await (const { id, text } of readCorpus(corpus, { only: this.#places })) {
      this.#found[this.#places.get(id) ?? 0] = 1
      this.#texts.set(id, text)
      // Two bytes a character at most, as V8 holds strings.
      bytes += 2 * text.length
      const isFull = this.#scratch ? this.#texts.size >= CHUNK : bytes > maxMemoryBytes
      if (isFull) await this.#spill(scratchFolder)
    }
    if (this.#scratch) await this.#spill(scratchFolder)
  }

  async #spill(scratchFolder: string): Promise<void> {
    try {
      this.#scratch ??= await openScratch(scratchFolder)
      const { database } = this.#scratch
      let writes: Promise<boolean>[] = []
      for (const [id, text] of this.#texts) {
        writes.push(database.put(this.#places.get(id) ?? 0, text))
        if (writes.length >= CHUNK) {
          await Promise.all(writes)
          writes = []
        }
      }
      await Promise.all(writes)
      this.#texts.clear()
    } catch (error) {
      const message = `scratch folder ${scratchFolder}: cannot hold the passages: ${(error as Error).message}`
      throw new RankmillError('invalid_configuration', message, { param: 'scratchFolder' }, { cause: error })
    }
  }

  /** Whether the passages went to a file. */
  get isSpilled(): boolean {
    return this.#scratch !== null
  }

  has(id: string): boolean {
    const place = this.#places.get(id)
    return place !== undefined && this.#found[place] === 1
  }

  /** The passage under an id, undefined where the corpus has none or nobody wanted it. */
  get(id: string): string | undefined {
    const place = this.#places.get(id)
    if (place === undefined) return undefined
    return this.#scratch ? this.#scratch.database.get(place) : this.#texts.get(id)
  }

  /** Wanted ids that the corpus does not have. */
  *missing(): Generator<string> {
    for (const [id, place] of this.#places) if (this.#found[place] === 0) yield id
  }

  async close(): Promise<void> {
    this.#texts.clear()
    const scratch = this.#scratch
    if (!scratch) return
    this.#scratch = null
    try {
      await scratch.database.close()
    } finally {
      await rm(scratch.folder, { recursive: true, force: true })
    }
  }
}

async function openScratch(parent: string): Promise<Scratch> {
  const folder = await mkdtemp(join(parent, 'rankmill-passages-'))
  const path = join(folder, 'passages.mdb')
  try {
    // Lost with the process either way, so nothing is waited for on the disk.
    const database = open<string, number>({ path, encoding: 'string', keyEncoding: 'uint32', noSync: true })
    return { folder, database }
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}
