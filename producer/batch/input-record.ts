/** What a run knows of its input, and whether it is still the same. */
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import type { BatchSource } from './batch-source.js'
import type { Checkpoint } from './checkpoint.js'
import type { InputFile } from './output-place.js'

export type InputRecord = Checkpoint['input']

export async function inputRecord(source: BatchSource, inputs: readonly InputFile[]): Promise<InputRecord> {
  const files = await Promise.all(inputs.map(fileOf))
  const known = files.every((file) => file !== undefined) ? files : []
  return { name: source.name, fingerprint: await source.fingerprint(), files: known }
}

async function fileOf(input: InputFile): Promise<string | undefined> {
  if (typeof input !== 'string') return undefined
  const found = await stat(input, { bigint: true }).catch(() => undefined)
  return found?.isFile() ? `${found.dev}:${found.ino}:${found.size}:${found.ctimeNs}` : undefined
}

/**
 * Compares every byte that the run has read with what is there now; nothing where no file was touched since. Of a run
 * that is finished, the input must end there, too.
 *
 * @param source reads on from the run's mark afterwards
 * @returns what is different, for a person; undefined where nothing is
 */
export async function otherInput(
  before: Checkpoint,
  source: BatchSource,
  now: InputRecord,
): Promise<string | undefined> {
  const { input, mark, finished } = before
  if (input.fingerprint !== now.fingerprint) {
    const was = `(${input.name}, ${input.fingerprint.slice(0, 12)})`
    const compared = 'compared by size and samples, or by the beginning of what is no file'
    return `holds the results of another input ${was}; ${now.name} is ${now.fingerprint.slice(0, 12)} (${compared})`
  }
  if (input.files.length > 0 && input.files.join() === now.files.join()) return undefined
  if ((await source.digestAt(mark)) !== mark.digest) {
    return `holds the results of another input: ${now.name} is not what it was up to line ${mark.line} (compared: all that is read up to there)`
  }
  if (!finished) return undefined
  for await (const { line } of source.read(mark)) {
    return `holds the results of another input: ${now.name} goes on after line ${mark.line}, to line ${line} at least`
  }
  return undefined
}

export function anotherInput(output: string, why: string): RankmillError {
  return new RankmillError('output_exists', `${output}: ${why}`, { param: 'input' })
}
