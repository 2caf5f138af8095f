/**
 * Builds a corpus folder (shared/corpus/corpus-folder.ts) from a stream of passages, in bounded memory. All is written
 * beside the folder, under `FOLDER.partial`, and gets its name when it is complete: a build that is killed leaves nothing
 * that could be taken for a corpus, and the next one starts over.
 */
import { createHash } from 'node:crypto'
import { mkdir, open as openFile, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import type { RootDatabase } from 'lmdb'
import {
  type CorpusDescription,
  DESCRIPTION_FILE,
  DICTIONARY_FILE,
  FORMAT,
  FORMAT_VERSION,
  LMDB_SETTINGS,
  partialOf,
} from '../../shared/corpus/corpus-folder.js'
import { RankmillError } from '../../shared/errors.js'
import { duplicateId, type Passage } from './passage-lines.js'
import { PassagePacker } from './passage-packer.js'

export interface BuildOptions {
  /** Told now and then how many passages were written. */
  readonly onProgress?: (passages: number) => void
  readonly signal?: AbortSignal | undefined
}

/** Passages and bytes of one transaction: what LMDB holds in memory before it writes. */
const BATCH_PASSAGES = 2000
const BATCH_BYTES = 4_000_000
/** Who builds; a build whose process is gone may be started over. */
const BUILDER_FILE = 'builder.json'
const DRAFT_FILE = 'draft.mdb'

/**
 * @param folder must not be there yet
 * @throws RankmillError `conflict` where the folder is there or is being built; `invalid_request` for an id that comes
 *   twice or where there are no passages; `output_unwritable`
 */
export async function buildCorpus(
  passages: AsyncIterable<Passage> | Iterable<Passage>,
  folder: string,
  options: BuildOptions = {},
): Promise<CorpusDescription> {
  const target = resolve(folder)
  await refuseExisting(target)
  const partial = partialOf(target)
  await claim(partial)
  try {
    const description = await write(passages, partial, options)
    await refuseExisting(target)
    await rename(partial, target)
    await rm(join(target, BUILDER_FILE))
    await sync(dirname(target))
    return description
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    throw error instanceof RankmillError || options.signal?.aborted ? error : unwritable(target, error)
  }
}

async function write(
  passages: AsyncIterable<Passage> | Iterable<Passage>,
  partial: string,
  { onProgress, signal }: BuildOptions,
): Promise<CorpusDescription> {
  const { open } = await import('lmdb')
  const draft = join(partial, DRAFT_FILE)
  // The draft is thrown away if anything happens, so it need not survive a crash.
  const data = open<Buffer, Buffer>({ ...LMDB_SETTINGS, path: draft, noSync: true, overlappingSync: false })
  const packer = new PassagePacker(undefined)
  const content = createHash('sha256')
  const totals = { passages: 0, textBytes: 0 }
  try {
    let batch: Entry[] = []
    let batchBytes = 0
    const flush = () => {
      writeBatch(data, batch)
      totals.passages += batch.length
      onProgress?.(totals.passages)
      batch = []
      batchBytes = 0
    }
    for await (const { passage, value } of packer.pack(passages)) {
      signal?.throwIfAborted()
      content.update(JSON.stringify([passage.id, passage.text]))
      totals.textBytes += Buffer.byteLength(passage.text)
      batch.push({ id: passage.id, source: passage.source, value })
      batchBytes += value.length
      if (batch.length >= BATCH_PASSAGES || batchBytes >= BATCH_BYTES) flush()
    }
    flush()
    if (totals.passages === 0)
      throw new RankmillError('invalid_request', 'there are no passages to build a corpus from')
    const version = content.digest('hex').slice(0, 32)
    const dataFile = `passages-${version}.mdb`
    // A copy without the pages that growing left empty.
    await data.backup(join(partial, dataFile), true)
    await sync(join(partial, dataFile))
    if (packer.dictionary) await writeSynced(join(partial, DICTIONARY_FILE), packer.dictionary.bytes)
    const description: CorpusDescription = {
      format: FORMAT,
      formatVersion: FORMAT_VERSION,
      ...totals,
      version,
      dataFile,
      dataBytes: (await stat(join(partial, dataFile))).size,
      hasDictionary: packer.dictionary !== undefined,
      builtAt: new Date().toISOString(),
    }
    await writeSynced(join(partial, DESCRIPTION_FILE), `${JSON.stringify(description, null, 2)}\n`)
    return description
  } finally {
    await data.close()
    for (const file of [draft, `${draft}-lock`]) await rm(file, { force: true })
  }
}

/** Without its text, of which many would fill the memory. */
interface Entry {
  readonly id: string
  readonly source: string | undefined
  readonly value: Buffer
}

function writeBatch(data: RootDatabase<Buffer, Buffer>, batch: readonly Entry[]): void {
  data.transactionSync(() => {
    for (const { id, source, value } of batch) {
      const key = Buffer.from(id)
      if (data.doesExist(key)) throw duplicateId(id, source)
      data.putSync(key, value)
    }
  })
}

async function refuseExisting(target: string): Promise<void> {
  if (await stat(target).catch(() => undefined)) {
    throw new RankmillError('conflict', `${target} is there already: build under another name, or remove it first`, {
      param: 'output',
    })
  }
}

/** Makes the folder of a build, or takes it over from one that was killed. */
async function claim(partial: string): Promise<void> {
  const builder = await readFile(join(partial, BUILDER_FILE), 'utf8').then(
    (text) => JSON.parse(text) as { pid?: number; host?: string },
    () => undefined,
  )
  const isAlive = builder?.pid !== undefined && builder.host === hostname() && isRunning(builder.pid)
  if (isAlive && builder.pid !== process.pid) {
    throw new RankmillError('conflict', `process ${builder.pid} is building ${basename(partial)}`, { param: 'output' })
  }
  const contents = await readdir(partial).catch(() => [])
  if (builder ? builder.host !== hostname() : contents.length > 0) {
    const owner = builder ? `belongs to a build on ${builder.host}` : 'is there, and not from a build'
    throw new RankmillError('conflict', `${partial} ${owner}: remove it if nobody needs it`, { param: 'output' })
  }
  try {
    await rm(partial, { recursive: true, force: true })
    await mkdir(dirname(partial), { recursive: true })
    await mkdir(partial)
    await writeFile(join(partial, BUILDER_FILE), JSON.stringify({ pid: process.pid, host: hostname() }))
  } catch (error) {
    throw unwritable(partial, error)
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function writeSynced(path: string, content: Buffer | string): Promise<void> {
  await writeFile(path, content)
  await sync(path)
}

async function sync(path: string): Promise<void> {
  const file = await openFile(path)
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

function unwritable(folder: string, error: unknown): RankmillError {
  const message = `cannot build ${folder}: ${(error as Error).message}`
  return new RankmillError('output_unwritable', message, { param: 'output' }, { cause: error })
}
