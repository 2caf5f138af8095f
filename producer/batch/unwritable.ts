/** What an operation on the output's files threw, as an error that names the file. */
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

export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}
