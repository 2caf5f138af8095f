/** Where an output lies: the file behind its links, a plain one or none yet, and none of the inputs. */
import { fstat, stat as statOf } from 'node:fs'
import { lstat, readlink, realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { RankmillError } from '../../shared/errors.js'
import { codeOf, unwritable } from './unwritable.js'

/** A path, or the number of an open file. */
export type InputFile = string | number

/** As the system's own. */
const MOST_LINKS = 40
const statPath = promisify(statOf)
const statOpen = promisify(fstat)

/** What a run leaves beside its output, and what that is called. */
export const reportOf = (output: string): string => `${output}.report.json`

/**
 * The path behind any symbolic links, so that they stay and two names of one file are one output.
 *
 * @throws RankmillError `output_unwritable` where it is a folder, a device or a pipe, or where no file can be
 */
export async function outputPlace(output: string): Promise<string> {
  try {
    const path = await behindLinks(output)
    const found = await identity(path)
    if (found && !found.isFile) {
      throw new RankmillError(
        'output_unwritable',
        `${output}: is no file, which a run needs to go on with; "-o -" writes to standard output, without that`,
        { param: 'output' },
      )
    }
    return path
  } catch (error) {
    throw unwritable(output, error)
  }
}

async function behindLinks(path: string, links = 0): Promise<string> {
  try {
    return await realpath(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || links > MOST_LINKS) throw error
  }
  const isLink = await lstat(path).then(
    (found) => found.isSymbolicLink(),
    () => false,
  )
  // A link to a file that is yet to come.
  if (isLink) return behindLinks(resolve(dirname(path), await readlink(path)), links + 1)
  return join(await realpath(dirname(path)), basename(path))
}

/**
 * Refuses an output that is one of the inputs, whatever it is called: by device and inode.
 *
 * @param output a path, or the number of an open file
 * @throws RankmillError `output_exists`, naming both
 */
export async function refuseInputs(output: InputFile, inputs: readonly InputFile[]): Promise<void> {
  const written = typeof output === 'string' ? [output, reportOf(output)] : [output]
  for (const file of written) {
    const place = await identity(file)
    // A terminal is the input and the output of many.
    if (!place?.isFile) continue
    for (const input of inputs) {
      if ((await identity(input))?.id !== place.id) continue
      const names = file === input ? `${nameOf(file)}: is` : `${nameOf(file)}: is the same file as ${nameOf(input)},`
      throw new RankmillError('output_exists', `${names} an input as well`, { param: 'output' })
    }
  }
}

async function identity(file: InputFile): Promise<{ id: string; isFile: boolean } | undefined> {
  try {
    const found =
      typeof file === 'string' ? await statPath(file, { bigint: true }) : await statOpen(file, { bigint: true })
    return { id: `${found.dev}:${found.ino}`, isFile: found.isFile() }
  } catch {
    return undefined
  }
}

function nameOf(file: InputFile): string {
  if (typeof file === 'string') return file
  return file === 0 ? 'standard input' : file === 1 ? 'standard output' : `open file ${file}`
}
