/** Files that a command writes at its end: looked at before its work, so that hours of it are not for nothing. */
import { constants } from 'node:fs'
import { access, stat, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { refuseInputs } from '../producer/batch/output-place.js'
import { unwritable } from '../producer/batch/unwritable.js'
import { RankmillError } from '../shared/errors.js'

/**
 * Refuses files that could not be written, that are read, and that are one. Writes nothing.
 *
 * @throws RankmillError `output_unwritable`, `output_exists`, `invalid_configuration`
 */
export async function checkResultFiles(written: readonly string[], read: readonly string[]): Promise<void> {
  const twice = written.find((file, i) => written.indexOf(file) !== i)
  if (twice !== undefined)
    throw new RankmillError('invalid_configuration', `${twice}: two things cannot be written to one file`)
  for (const file of written) {
    await refuseInputs(file, read)
    await checkWritable(file).catch((error) => {
      throw unwritable(file, error)
    })
  }
}

/** @throws RankmillError `output_unwritable` */
export async function writeResultFile(file: string, content: string): Promise<void> {
  await writeFile(file, content).catch((error) => {
    throw unwritable(file, error)
  })
}

async function checkWritable(file: string): Promise<void> {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  if (found?.isDirectory()) throw new Error('is a folder')
  await access(found ? file : dirname(file), constants.W_OK)
}
