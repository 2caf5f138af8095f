/** Outputs that cannot grow line by line: a run writes JSON lines beside them, and they are made of those at its end. */
import { stat } from 'node:fs/promises'
import { recordFormatOf } from '../lines/record-format.js'
import { checkTable, writeTable } from './table-output.js'

/** Where a run writes its answers: the output itself, or the lines that a table is made of. */
export function answersFileOf(output: string): string {
  return recordFormatOf(output) === 'jsonl' ? output : `${output}.answers.jsonl`
}

/** Refuses, before any work, what could not be written at its end. @throws RankmillError `invalid_configuration` */
export async function checkDelivery(inputs: readonly string[], output: string, maxRowBytes: number): Promise<void> {
  if (recordFormatOf(output) !== 'jsonl') await checkTable({ inputs, maxRowBytes })
}

/**
 * Makes the output of a finished run, unless it is there already.
 *
 * @throws RankmillError `output_unwritable`, `input_unreadable`
 */
export async function deliver(inputs: readonly string[], output: string, maxRowBytes: number): Promise<void> {
  if (recordFormatOf(output) === 'jsonl') return
  const answers = answersFileOf(output)
  if (await isNewer(output, answers)) return
  await writeTable({ inputs, answers, maxRowBytes }, output)
}

async function isNewer(path: string, than: string): Promise<boolean> {
  const [made, from] = await Promise.all([path, than].map((file) => stat(file).catch(() => undefined)))
  return made !== undefined && from !== undefined && made.mtimeMs >= from.mtimeMs
}
