/** Where the contents of files are: a folder, or an S3-compatible store. Names are ids that the server made. */
import { RankmillError } from '../../shared/errors.js'

export interface Storage {
  /**
   * Stores a content as a whole, or not at all; replaces what is there.
   *
   * @returns its length in bytes
   * @throws RankmillError `storage_failed`, or what the content's reader throws
   */
  put(id: string, content: AsyncIterable<Buffer>): Promise<number>
  /** @throws RankmillError `not_found`, `storage_failed` */
  get(id: string): Promise<AsyncIterable<Buffer>>
  /** Nothing happens where there is none. @throws RankmillError `storage_failed` */
  remove(id: string): Promise<void>
  /** A file on this machine with the content: itself, or a copy in a folder. @throws RankmillError `not_found`, `storage_failed` */
  local(id: string, folder: string): Promise<string>
  close(): void
}

/** What an operation threw, as an error with a code; errors that have one pass. */
export function storageError(id: string, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const { code, name, message } = error as NodeJS.ErrnoException
  if (code === 'ENOENT' || name === 'NoSuchKey' || name === 'NotFound') {
    return new RankmillError('not_found', `the content of file "${id}" is gone`, { param: 'id' }, { cause: error })
  }
  const reason = code === 'ENOSPC' ? 'no space is left' : message || name || String(error)
  return new RankmillError('storage_failed', `file "${id}": ${reason}`, {}, { cause: error })
}
