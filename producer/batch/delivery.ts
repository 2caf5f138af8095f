/** Outputs that cannot grow line by line: a run writes to a file beside them, and they are made of it at its end. */
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { recordFormatOf } from '../lines/record-format.js'
import { checkBucket, isS3, s3Place, s3Tag, uploadS3 } from '../lines/s3-object.js'
import { readCheckpoint } from './checkpoint.js'
import { checkedOutput, type OutputRecord, outputChanged, recordOf } from './output-check.js'
import { outputPlace, refuseInputs } from './output-place.js'
import { type RunFiles, type RunFolder, runFolderOf } from './run-folder.js'
import { refuseForeign } from './run-opening.js'
import { checkTable, writeTable } from './table-output.js'
import { unwritable } from './unwritable.js'

/** What is made of a finished run's answers. */
export interface Delivery {
  /**
   * Whether what was made of these very answers is in its place. Changes nothing.
   *
   * @throws RankmillError `output_changed` where something else was put there since
   */
  isDone(run: RunFiles): Promise<boolean>
  /**
   * @param claim nobody else delivers meanwhile
   * @throws RankmillError `output_unwritable`, `output_in_use`, `input_unreadable`
   */
  make(claim: RunFolder): Promise<void>
}

/** Where outputs that go to S3 are until they are there. */
const LOCAL_FOLDER = '.rankmill/s3'
/** Of the run's folder: which table was made of which answers. */
const NOTE = 'table'
const STANDARD = '-'

interface TableNote {
  /** Digest of the answers. */
  readonly of: string
  readonly table: OutputRecord
}

/** The output on this machine. @throws RankmillError `output_unwritable` where a URL has no bucket and key */
export function localOutputOf(output: string): string {
  if (!isS3(output)) return output
  try {
    const { bucket, key } = s3Place(output)
    if (key === '' || key.split('/').includes('..')) throw new Error('has no key that a file can be called by')
    return join(LOCAL_FOLDER, bucket, key)
  } catch (error) {
    throw unwritable(output, error)
  }
}

/** Where a run writes its answers: the output itself, or the lines that a table is made of. */
export function answersFileOf(output: string): string {
  const local = localOutputOf(output)
  return recordFormatOf(output) === 'jsonl' ? local : `${local}.answers.jsonl`
}

/**
 * Refuses an output that is one of the inputs.
 *
 * @param read by this run, and by those that come with it
 * @throws RankmillError `output_exists`
 */
export async function refuseRead(output: string, read: readonly string[]): Promise<void> {
  if (isS3(output) && read.includes(output))
    throw new RankmillError('output_exists', `${output}: is an input as well`, { param: 'output' })
  if (read.includes(output) && (await exists(runFolderOf(answersFileOf(output))))) {
    const hint = 'a pattern in quotes leaves out what a run has written'
    throw new RankmillError('output_exists', `${output}: is an input as well; ${hint}`, { param: 'output' })
  }
  const inputs = read.map((file) => (file === STANDARD ? 0 : file))
  for (const file of new Set([localOutputOf(output), answersFileOf(output)])) await refuseInputs(file, inputs)
}

/**
 * Refuses, before any work, what could not be written at its end, and what is not to be written over: what no run from here
 * wrote.
 *
 * @throws RankmillError `invalid_configuration`, `output_exists`, `output_unwritable`
 */
export async function checkDelivery(
  inputs: readonly string[],
  output: string,
  maxRowBytes: number,
  overwrite: boolean,
): Promise<void> {
  if (recordFormatOf(output) !== 'jsonl') {
    await checkTable({ inputs, maxRowBytes })
    if (!isS3(output)) await outputPlace(output)
    if (!isS3(output) && !overwrite && !(await exists(answersFileOf(output)))) await refuseForeign(output)
  }
  await checkDestination(output, answersFileOf(output), overwrite)
}

/**
 * @param written by the run that the output is made of
 * @throws RankmillError `output_unwritable` where an output's bucket cannot be reached, `output_exists` where the object is
 *   there and no run from here wrote it
 */
export async function checkDestination(output: string, written: string, overwrite: boolean): Promise<void> {
  if (!isS3(output)) return
  try {
    await mkdir(dirname(localOutputOf(output)), { recursive: true })
    await checkBucket(output)
    if (!overwrite && !(await exists(written)) && (await s3Tag(output)) !== undefined) throw foreign(output)
  } catch (error) {
    throw unwritable(output, error)
  }
}

function foreign(output: string): RankmillError {
  const message = `${output}: is there, and nothing says that a run from here wrote it`
  return new RankmillError('output_exists', message, { param: 'output' })
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

/** @returns undefined where the output is the file that the run writes */
export function deliveryOf(inputs: readonly string[], output: string, maxRowBytes: number): Delivery | undefined {
  if (recordFormatOf(output) === 'jsonl') return uploadOf(output)
  const local = localOutputOf(output)
  const source = { inputs, answers: answersFileOf(output), maxRowBytes }
  const upload = uploadOf(output)
  return {
    isDone: async (run) => (await isMade(run, local)) && ((await upload?.isDone(run)) ?? true),
    make: async (claim) => {
      if (!(await isMade(claim, local))) {
        await writeTable(source, local, claim)
        const of = (await readCheckpoint(claim))?.output.digest ?? ''
        const note: TableNote = { of, table: await recordOf(local, 0) }
        await claim.replace(NOTE, JSON.stringify(note))
      }
      await upload?.make(claim)
    },
  }
}

/** Whether the table in its place is the one that was made of the answers; it may have been taken away, and is made anew. */
async function isMade(run: RunFiles, table: string): Promise<boolean> {
  const path = await run.newest(NOTE)
  const found = await stat(table).catch(() => undefined)
  if (path === undefined || found === undefined) return false
  const note = JSON.parse(await readFile(path, 'utf8')) as TableNote
  if ((await readCheckpoint(run))?.output.digest !== note.of) return false
  await checkedOutput(table, note.table)
  if (found.size === note.table.bytes) return true
  throw outputChanged(table, `has ${found.size} bytes, of ${note.table.bytes} that the run wrote`)
}

/** Puts a file where its URL says, once: a note beside it says which object it became. */
export function uploadOf(output: string): Delivery | undefined {
  if (!isS3(output)) return undefined
  const local = localOutputOf(output)
  const note = `${local}.uploaded.json`
  const isDone = async () => {
    const { size, mtimeMs } = await stat(local)
    // One that was cut off while it was written says nothing.
    const before = await readFile(note, 'utf8')
      .then(JSON.parse)
      .catch(() => undefined)
    return before?.size === size && before.mtimeMs === mtimeMs && before.etag === (await s3Tag(output))
  }
  const make = async () => {
    if (await isDone()) return
    const { size, mtimeMs } = await stat(local)
    const etag = await uploadS3(local, output)
    await writeFile(note, JSON.stringify({ size, mtimeMs, etag }))
  }
  const said = (error: unknown) => {
    throw unwritable(output, error)
  }
  return { isDone: () => isDone().catch(said), make: () => make().catch(said) }
}
