/** Whether an output is what a run left, byte by byte. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import { readLines } from '../lines/line-reader.js'
import { BLOCK_BYTES, type DigestState, OutputDigest } from './output-digest.js'
import { codeOf, unwritable } from './unwritable.js'

/** What is known of an output's content: enough to tell whether it is still there. */
export interface OutputRecord extends DigestState {
  /** Ends of lines, before compression. */
  readonly lines: number
  /** Device, inode and time of the last change: where they are the same, nothing needs to be read. */
  readonly file: string
}

export const EMPTY: OutputRecord = { ...new OutputDigest().state(), lines: 0, file: '' }

/**
 * Whether an output begins with what a run wrote. Reads all of that, unless the file was not touched since.
 *
 * @returns the digest to go on with
 * @throws RankmillError `output_changed`
 */
export async function checkedOutput(path: string, record: OutputRecord): Promise<OutputDigest> {
  if (record.bytes === 0) return new OutputDigest()
  const found = await stat(path, { bigint: true }).catch((error) => {
    throw codeOf(error) === 'ENOENT' ? gone(path, record.bytes) : unwritable(path, error)
  })
  if (found.size < record.bytes) {
    throw outputChanged(path, `has ${found.size} bytes, of ${record.bytes} that the run wrote`)
  }
  if (fileOf(found) === record.file && found.size === BigInt(record.bytes)) {
    const start = record.bytes - (record.bytes % BLOCK_BYTES)
    return OutputDigest.resume(record, await contentOf(path, start, record.bytes))
  }
  const digest = new OutputDigest()
  for await (const chunk of createReadStream(path, { end: record.bytes - 1, highWaterMark: BLOCK_BYTES })) {
    digest.update(chunk as Buffer)
  }
  if (digest.state().digest === record.digest) return digest
  throw outputChanged(path, `has other content in its first ${record.bytes} bytes than the run wrote`)
}

/**
 * Takes the whole lines that follow what a digest covers into it.
 *
 * @param isWhole told each line: whether to keep it; the first that is not ends the search
 * @returns how many were kept
 */
export async function keepWholeLines(
  path: string,
  digest: OutputDigest,
  isWhole: (line: string) => boolean,
): Promise<number> {
  const from = digest.bytes
  let whole = from
  let lines = 0
  const stream = createReadStream(path, { start: from })
  try {
    for await (const line of readLines(stream, Number.MAX_SAFE_INTEGER, { line: 0, offset: from })) {
      const hasEnd = line.end - whole > line.length
      if (!hasEnd || !isWhole(line.bytes?.toString() ?? '')) break
      whole = line.end
      lines++
    }
  } catch (error) {
    // Nothing was written yet.
    if (codeOf(error) !== 'ENOENT' || from > 0) throw unwritable(path, error)
  } finally {
    stream.destroy()
  }
  if (whole > from) {
    for await (const chunk of createReadStream(path, { start: from, end: whole - 1 })) digest.update(chunk as Buffer)
  }
  return lines
}

export function gone(output: string, bytes: number): RankmillError {
  return outputChanged(output, `is gone; the run had written ${bytes} bytes`)
}

export function outputChanged(output: string, what: string): RankmillError {
  return new RankmillError('output_changed', `${output}: ${what}`, { param: 'output' })
}

/** Of a file that nobody writes. */
export async function recordOf(path: string, lines: number): Promise<OutputRecord> {
  const digest = new OutputDigest()
  for await (const chunk of createReadStream(path, { highWaterMark: BLOCK_BYTES })) digest.update(chunk as Buffer)
  return { ...digest.state(), lines, file: fileOf(await stat(path, { bigint: true })) }
}

async function contentOf(path: string, start: number, end: number): Promise<Buffer> {
  if (end === start) return Buffer.alloc(0)
  const chunks: Buffer[] = []
  for await (const chunk of createReadStream(path, { start, end: end - 1 })) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** The file behind a path, as long as somebody has it open. */
export function idOf({ dev, ino }: { dev: bigint; ino: bigint }): string {
  return `${dev}:${ino}`
}

/** The same file, and nothing was done to it. */
export function fileOf(found: { dev: bigint; ino: bigint; ctimeNs: bigint }): string {
  return `${idOf(found)}:${found.ctimeNs}`
}
