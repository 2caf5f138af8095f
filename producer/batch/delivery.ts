/** Outputs that cannot grow line by line: a run writes to a file beside them, and they are made of it at its end. */
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { recordFormatOf } from '../lines/record-format.js'
import { checkBucket, isS3, s3Place, s3Tag, uploadS3 } from '../lines/s3-object.js'
import { fileOf } from './batch-file.js'
import { outputPlace, refuseInputs } from './output-place.js'
import { refuseForeign } from './run-opening.js'
import { checkTable, writeTable } from './table-output.js'
import { unwritable } from './unwritable.js'

/** Where outputs that go to S3 are until they are there. */
const LOCAL_FOLDER = '.rankmill/s3'

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
  const inputs = read.map(fileOf)
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

/**
 * Makes the output of a finished run, unless it is there already.
 *
 * @throws RankmillError `output_unwritable`, `input_unreadable`
 */
export async function deliver(inputs: readonly string[], output: string, maxRowBytes: number): Promise<void> {
  const local = localOutputOf(output)
  const answers = answersFileOf(output)
  if (local !== answers && !(await isNewer(local, answers))) await writeTable({ inputs, answers, maxRowBytes }, local)
  await upload(output)
}

/**
 * Puts an output where it belongs, once: a note beside the file says which object it became.
 *
 * @throws RankmillError `output_unwritable`
 */
export async function upload(output: string): Promise<void> {
  if (!isS3(output)) return
  const local = localOutputOf(output)
  const note = `${local}.uploaded.json`
  try {
    const { size, mtimeMs } = await stat(local)
    const before = await readFile(note, 'utf8').then(JSON.parse, () => undefined)
    if (before?.size === size && before.mtimeMs === mtimeMs && before.etag === (await s3Tag(output))) return
    const etag = await uploadS3(local, output)
    await writeFile(note, JSON.stringify({ size, mtimeMs, etag }))
  } catch (error) {
    throw unwritable(output, error)
  }
}

async function isNewer(path: string, than: string): Promise<boolean> {
  const [made, from] = await Promise.all([path, than].map((file) => stat(file).catch(() => undefined)))
  return made !== undefined && from !== undefined && made.mtimeMs >= from.mtimeMs
}
