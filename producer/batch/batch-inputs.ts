/** What a batch run is given as its input: files of every format, patterns of them, a stream. */
import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { glob } from 'tinyglobby'
import { RankmillError } from '../../shared/errors.js'
import { recordFormatOf } from '../lines/record-format.js'
import { isS3, s3Matches } from '../lines/s3-object.js'
import { storedFile } from '../lines/stored-file.js'
import { type BatchSource, unreadable } from './batch-source.js'
import { JoinedSource } from './joined-source.js'
import { LineSource } from './line-source.js'
import { isOwnFile } from './own-files.js'
import { REQUEST_COLUMNS, type RequestColumns, RowSource } from './row-source.js'

export type BatchInput = string | readonly string[] | AsyncIterable<Buffer>

const PATTERN = /[*?[\]{}]/

/**
 * Patterns (`part-*.jsonl.gz`) become the files that they match, by name; what is there under the very name is that file.
 *
 * @param output of the run, a folder where it ends with `/` or is one: what an earlier run left there is not matched, so that
 *   the same command has the same inputs again
 * @throws RankmillError `input_unreadable` where a pattern matches nothing
 */
export async function filesOf(inputs: readonly string[], output?: string): Promise<string[]> {
  const isFolder = output !== undefined && (await isFolderOutput(output))
  const files: string[] = []
  for (const input of inputs) {
    if (!PATTERN.test(input) || (!isS3(input) && existsSync(input))) {
      files.push(input)
      continue
    }
    const found = await matches(input)
    const others: string[] = []
    for (const file of found) {
      if (output === undefined || !(await isOwnFile(file, output, isFolder))) others.push(file)
    }
    if (others.length === 0) {
      const but = found.length === 0 ? '' : ` but what a run to ${output} left`
      throw new RankmillError('input_unreadable', `${input}: matches no file${but}`, { param: 'input' })
    }
    files.push(...others)
  }
  return files
}

/** Whether an output is to hold a file for each input. */
export async function isFolderOutput(output: string): Promise<boolean> {
  if (output.endsWith('/')) return true
  return !isS3(output) && ((await stat(output).catch(() => undefined))?.isDirectory() ?? false)
}

async function matches(pattern: string): Promise<string[]> {
  if (!isS3(pattern)) return (await glob(pattern, { onlyFiles: true, expandDirectories: false })).sort()
  return s3Matches(pattern).catch((error) => {
    throw unreadable(pattern, error)
  })
}

/** With its patterns' files, so that all that looks at them sees the same ones. @throws RankmillError as `filesOf` */
export async function resolvedInput(input: BatchInput, output: string | undefined): Promise<BatchInput> {
  if (typeof input !== 'string' && !isList(input)) return input
  return filesOf(typeof input === 'string' ? [input] : input, output)
}

/**
 * @param input without patterns
 * @throws RankmillError `input_unreadable`
 */
export async function openInputs(
  input: BatchInput,
  maxLineBytes: number,
  columns: RequestColumns = REQUEST_COLUMNS,
): Promise<BatchSource> {
  if (typeof input !== 'string' && !isList(input)) return LineSource.open(input, maxLineBytes)
  const sources: BatchSource[] = []
  for (const file of typeof input === 'string' ? [input] : input) {
    const isTable = recordFormatOf(file) !== 'jsonl'
    sources.push(
      isTable ? await RowSource.open(file, columns, maxLineBytes) : await LineSource.open(file, maxLineBytes),
    )
  }
  const [only] = sources
  return sources.length === 1 && only ? only : new JoinedSource(sources)
}

/**
 * Opens files one after another and lets go of them, to find early what a run of them would refuse at once. What can be read
 * only once is left alone.
 *
 * @throws RankmillError as `openInputs`
 */
export async function checkInputs(
  files: readonly string[],
  maxLineBytes: number,
  columns?: RequestColumns,
): Promise<void> {
  for (const file of files) {
    const stored = await storedFile(file).catch((error) => {
      throw unreadable(file, error)
    })
    if (stored) await openInputs(file, maxLineBytes, columns)
  }
}

export function isList(input: BatchInput): input is readonly string[] {
  return Array.isArray(input)
}
