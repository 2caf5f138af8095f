/** The passages that a run names, read once from a corpus of any size: in memory, or in a file once they are many. */
import { randomUUID } from 'node:crypto'
import { readSync } from 'node:fs'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { cutToBytes, type Sources } from '../lines/text-lines.js'
import { readCorpus } from './beir.js'

export interface PassageStoreOptions {
  /** Passages are held in memory up to this size together, beyond it in a file. */
  readonly maxMemoryBytes?: number
  /** UTF-8 length of one passage; longer ones are cut, and counted. Default: no limit. */
  readonly maxPassageBytes?: number
  /** The folder of that file, which is gone when the process is. Default: the system's temporary folder. */
  readonly scratchFolder?: string
}

const DEFAULT_MEMORY_BYTES = 256 * 2 ** 20
/** Text gathered before it is written to the file. */
const WRITE_CHARACTERS = 2 ** 20

export class PassageStore {
  /** Places of the wanted ids in the arrays below. */
  readonly #places: ReadonlyMap<string, number>
  readonly #found: Uint8Array
  readonly #texts = new Map<string, string>()
  #cut = 0
  #mended = 0
  /** Texts end to end in UTF-8; null while all are in memory. */
  #scratch: ScratchFile | null = null

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
   *   hold them
   */
  static async read(
    corpus: Sources,
    wanted: Iterable<string>,
    {
      maxMemoryBytes = DEFAULT_MEMORY_BYTES,
      maxPassageBytes = Number.POSITIVE_INFINITY,
      scratchFolder = tmpdir(),
    }: PassageStoreOptions = {},
  ): Promise<PassageStore> {
    const store = new PassageStore(wanted)
    try {
      await store.#read(corpus, maxMemoryBytes, maxPassageBytes, scratchFolder)
      return store
    } catch (error) {
      await store.close()
      throw error
    }
  }

  async #read(corpus: Sources, maxMemoryBytes: number, maxPassageBytes: number, scratchFolder: string): Promise<void> {
    let characters = 0
    for await (const { id, text: read } of readCorpus(corpus, { only: this.#places })) {
      const text = cutToBytes(read.toWellFormed(), maxPassageBytes)
      if (text.length < read.length) this.#cut++
      if (!read.isWellFormed()) this.#mended++
      this.#found[this.#places.get(id) ?? 0] = 1
      this.#texts.set(id, text)
      characters += text.length
      // Two bytes a character at most, as V8 holds strings.
      if (this.#scratch ? characters > WRITE_CHARACTERS : 2 * characters > maxMemoryBytes) {
        await this.#spill(scratchFolder)
        characters = 0
      }
    }
    if (this.#scratch) await this.#spill(scratchFolder)
  }

  async #spill(scratchFolder: string): Promise<void> {
    try {
      this.#scratch ??= await ScratchFile.open(scratchFolder, this.#places.size)
      let pending: [place: number, text: string][] = []
      let characters = 0
      for (const [id, text] of this.#texts) {
        pending.push([this.#places.get(id) ?? 0, text])
        characters += text.length
        if (characters <= WRITE_CHARACTERS) continue
        await this.#scratch.append(pending)
        pending = []
        characters = 0
      }
      await this.#scratch.append(pending)
      this.#texts.clear()
    } catch (error) {
      const message = `scratch folder ${scratchFolder}: cannot hold the passages: ${(error as Error).message}`
      throw new RankmillError('invalid_configuration', message, { param: 'scratchFolder' }, { cause: error })
    }
  }

  /** Passages that were longer than allowed. */
  get cut(): number {
    return this.#cut
  }

  /** Passages in which halves of characters were replaced by U+FFFD: no UTF-8 can hold them. */
  get mended(): number {
    return this.#mended
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
    if (place === undefined || this.#found[place] === 0) return undefined
    return this.#scratch ? this.#scratch.read(place) : this.#texts.get(id)
  }

  /** Wanted ids that the corpus does not have. */
  *missing(): Generator<string> {
    for (const [id, place] of this.#places) if (this.#found[place] === 0) yield id
  }

  async close(): Promise<void> {
    this.#texts.clear()
    await this.#scratch?.close()
    this.#scratch = null
  }
}

/** Texts end to end in a file that only this process sees. */
class ScratchFile {
  readonly #path: string
  readonly #file: FileHandle
  readonly #offsets: Float64Array
  readonly #lengths: Uint32Array
  #size = 0

  private constructor(path: string, file: FileHandle, places: number) {
    this.#path = path
    this.#file = file
    this.#offsets = new Float64Array(places)
    this.#lengths = new Uint32Array(places)
  }

  static async open(folder: string, places: number): Promise<ScratchFile> {
    const path = join(folder, `rankmill-passages-${randomUUID()}`)
    const file = await open(path, 'wx+', 0o600)
    // Without a name it goes with the process, however that ends. Where open files keep their names, close removes it.
    await rm(path, { force: true }).catch(() => undefined)
    return new ScratchFile(path, file, places)
  }

  async append(texts: readonly (readonly [place: number, text: string])[]): Promise<void> {
    const bytes = texts.map(([place, text]) => {
      const encoded = Buffer.from(text)
      this.#offsets[place] = this.#size
      this.#lengths[place] = encoded.length
      this.#size += encoded.length
      return encoded
    })
    await this.#file.appendFile(Buffer.concat(bytes))
  }

  read(place: number): string {
    const bytes = Buffer.allocUnsafe(this.#lengths[place] ?? 0)
    const count = readSync(this.#file.fd, bytes, 0, bytes.length, this.#offsets[place] ?? 0)
    if (count !== bytes.length) throw new RankmillError('internal', `${this.#path}: ends before a passage does`)
    return bytes.toString()
  }

  async close(): Promise<void> {
    await this.#file.close()
    await rm(this.#path, { force: true })
  }
}
