/** What an operation on the output's files threw, as an error that names the file. */
import { accessSync, constants } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { RankmillError } from '../../shared/errors.js'

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left',
  EDQUOT: 'no space is left of the quota',
  EFBIG: 'the file may not become larger',
  EROFS: 'it lies where nothing can be written',
  EACCES: 'writing is not permitted',
  EPERM: 'writing is not permitted',
  ENOENT: 'there is no such folder',
  ENOTDIR: 'what should be its folder is none',
}

export function unwritable(output: string, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const text = error instanceof Error ? error.message : String(error)
  const reason = REASONS[codeOf(error) ?? '']
  const message = `${output}: ${reason === undefined ? text : `${reason} (${text})`}`
  return new RankmillError('output_unwritable', message, { param: 'output' }, { cause: error })
}

/**
 * Why a folder could not be made with all those above it: of a read-only file system Node says that there is no such folder.
 *
 * @returns the error, or what keeps the nearest folder that is there from being written
 */
export function whyUnmade(path: string, error: unknown): unknown {
  if (codeOf(error) !== 'ENOENT') return error
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    try {
      accessSync(folder, constants.W_OK)
      return error
    } catch (found) {
      if (codeOf(found) !== 'ENOENT' || folder === dirname(folder)) return found
    }
  }
}

export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}
