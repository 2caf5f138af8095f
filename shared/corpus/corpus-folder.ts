/**
 * Corpora in files, for what outgrows Redis's memory: a folder that is written once (producer/corpora/corpus-build.ts)
 * and only read thereafter. `corpus.json` is written last and says what the others are; `passages-….mdb` is an LMDB file
 * of compressed passages by id; `dictionary` is what they were compressed with.
 */
import { open as openFile, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../errors.js'
import { type Dictionary, decodeText, dictionaryOf } from './text-codec.js'

export const DESCRIPTION_FILE = 'corpus.json'
export const DICTIONARY_FILE = 'dictionary'
/** Where a build keeps what is not a corpus yet. */
export const partialOf = (folder: string) => `${folder}.partial`
export const FORMAT = 'rankmill-corpus'
export const FORMAT_VERSION = 1

const descriptionSchema = z.object({
  format: z.literal(FORMAT),
  formatVersion: z.literal(FORMAT_VERSION),
  passages: z.int().min(0),
  /** UTF-8 length of all texts. */
  textBytes: z.int().min(0),
  /** SHA-256 of ids and texts in the order of the source: the corpus's version. */
  version: z.string().regex(/^[0-9a-f]{32}$/),
  dataFile: z.string().regex(/^passages-[0-9a-f]{32}\.mdb$/),
  dataBytes: z.int().min(0),
  hasDictionary: z.boolean(),
  builtAt: z.string(),
})

export type CorpusDescription = z.output<typeof descriptionSchema>

/** LMDB's settings for both sides: keys and values are bytes. */
export const LMDB_SETTINGS = { noSubdir: true, keyEncoding: 'binary', encoding: 'binary', cache: false } as const

/** Of an LMDB file's first page: LMDB itself may end the process over a file that does not begin so. */
const MAGIC = 0xbeefc0de
const MAGIC_AT = [16, 24]

/** @throws RankmillError `unknown_corpus` where there is no such folder, `invalid_corpus` where it is no readable corpus */
export async function readDescription(folder: string): Promise<CorpusDescription> {
  const text = await readFile(join(folder, DESCRIPTION_FILE), 'utf8').catch(async (error: NodeJS.ErrnoException) => {
    throw await whyNot(folder, error)
  })
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw invalid(folder, `its ${DESCRIPTION_FILE} is not JSON: ${(error as Error).message}`)
  }
  const { format, formatVersion } = (parsed ?? {}) as { format?: unknown; formatVersion?: unknown }
  if (format !== FORMAT) throw invalid(folder, `its ${DESCRIPTION_FILE} is not that of a corpus`)
  if (formatVersion !== FORMAT_VERSION) {
    throw invalid(folder, `it has format ${JSON.stringify(formatVersion)}, and this version reads ${FORMAT_VERSION}`)
  }
  const checked = descriptionSchema.safeParse(parsed)
  if (checked.success) return checked.data
  const issue = checked.error.issues[0]
  throw invalid(folder, `its ${DESCRIPTION_FILE} is damaged: ${issue?.path.join('.')}: ${issue?.message}`)
}

/** An open corpus folder. */
export class CorpusFolder {
  readonly description: CorpusDescription
  readonly #data: PassageData
  readonly #dictionary: Dictionary | undefined

  private constructor(description: CorpusDescription, data: PassageData, dictionary: Dictionary | undefined) {
    this.description = description
    this.#data = data
    this.#dictionary = dictionary
  }

  /** @throws RankmillError `unknown_corpus` or `invalid_corpus` */
  static async open(folder: string, description?: CorpusDescription): Promise<CorpusFolder> {
    const known = description ?? (await readDescription(folder))
    const path = join(folder, known.dataFile)
    await checkData(folder, path, known.dataBytes)
    const dictionary = known.hasDictionary
      ? dictionaryOf(
          await readFile(join(folder, DICTIONARY_FILE)).catch((error) => {
            throw invalid(folder, `its dictionary cannot be read: ${(error as Error).message}`)
          }),
        )
      : undefined
    try {
      // Loaded where it is needed only: its native part is not there for every platform.
      const { open } = await import('lmdb')
      const data = open<Buffer, Buffer>({ ...LMDB_SETTINGS, path, readOnly: true })
      return new CorpusFolder(known, data, dictionary)
    } catch (error) {
      throw invalid(folder, `LMDB cannot open it: ${(error as Error).message}`)
    }
  }

  /** The texts under ids, undefined where there is none. */
  async read(ids: readonly string[]): Promise<(string | undefined)[]> {
    // Off this thread where the pages are not in memory yet.
    const values = await this.#data.getMany(ids.map((id) => Buffer.from(id)))
    return values.map((value) => (value ? decodeText(value, this.#dictionary) : undefined))
  }

  async close(): Promise<void> {
    await this.#data.close()
  }
}

interface PassageData {
  getMany(keys: Buffer[]): Promise<(Buffer | undefined)[]>
  close(): Promise<void>
}

async function checkData(folder: string, path: string, bytes: number): Promise<void> {
  try {
    const { size } = await stat(path)
    if (size !== bytes) throw new Error(`${size} bytes instead of ${bytes}`)
    const file = await openFile(path)
    try {
      const head = Buffer.alloc(32)
      await file.read(head, 0, head.length, 0)
      if (!MAGIC_AT.some((at) => head.readUInt32LE(at) === MAGIC)) throw new Error('not an LMDB file')
    } finally {
      await file.close()
    }
  } catch (error) {
    throw invalid(folder, `its passages cannot be read: ${(error as Error).message}`)
  }
}

async function whyNot(folder: string, error: NodeJS.ErrnoException): Promise<RankmillError> {
  if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') {
    return invalid(folder, `its ${DESCRIPTION_FILE} cannot be read: ${error.message}`)
  }
  if (await stat(folder).catch(() => undefined)) {
    const isPartial = folder.endsWith(partialOf(''))
    return invalid(folder, isPartial ? 'its build was not finished' : `it has no ${DESCRIPTION_FILE}`)
  }
  const begun = await stat(partialOf(folder)).catch(() => undefined)
  const message = begun
    ? `there is no corpus at ${folder}: its build was begun and not finished`
    : `there is no corpus at ${folder}`
  return new RankmillError('unknown_corpus', message, { param: 'documents.corpus' })
}

function invalid(folder: string, reason: string): RankmillError {
  return new RankmillError('invalid_corpus', `${folder} is not a corpus that can be read: ${reason}`, {
    param: 'documents.corpus',
  })
}
