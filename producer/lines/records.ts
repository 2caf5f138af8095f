/** Records of files in every format that is read: JSON lines, CSV, TSV, Parquet. */
import { RankmillError } from '../../shared/errors.js'
import { recordOf } from './beir-records.js'
import { csvRows, RowError } from './csv-rows.js'
import { DELIMITERS, recordFormatOf } from './record-format.js'
import { storedFile } from './stored-file.js'
import { bytesOf, type Line, lineError, MAX_LINE_BYTES, nameOf, type Source, textLines } from './text-lines.js'

export interface PlacedRecord extends Line {
  readonly fields: Readonly<Record<string, unknown>>
}

/**
 * The records of a file, with the number of the line (Parquet: of the row) that each is in, from 1. In CSV an empty value is
 * none.
 *
 * @param otherwise as for `mistakenFormat`
 * @throws RankmillError `invalid_request` where the file cannot be read or is of another format, naming it and the line
 */
export async function* recordsOf(
  source: Source,
  maxLineBytes = MAX_LINE_BYTES,
  otherwise?: string,
): AsyncGenerator<PlacedRecord> {
  const format = recordFormatOf(nameOf(source))
  if (format === 'parquet') yield* parquetRecords(source)
  else if (format === 'jsonl') {
    for await (const line of textLines(source, maxLineBytes, bytesOf(source, format, otherwise)))
      yield { ...line, fields: recordOf(source, line) }
  } else yield* csvRecords(source, format, maxLineBytes)
}

async function* csvRecords(source: Source, format: 'csv' | 'tsv', maxRowBytes: number): AsyncGenerator<PlacedRecord> {
  try {
    const rows = csvRows(bytesOf(source, format), DELIMITERS[format], maxRowBytes)
    for await (const { number, columns, values, isHeader } of rows) {
      if (isHeader) continue
      const fields = Object.fromEntries(
        columns.flatMap((name, i) => (values[i] === undefined || values[i] === '' ? [] : [[name, values[i]]])),
      )
      yield { number, text: '', fields }
    }
  } catch (error) {
    throw error instanceof RowError ? lineError(source, error.number, error.message) : unreadable(source, error)
  }
}

async function* parquetRecords(source: Source): AsyncGenerator<PlacedRecord> {
  try {
    const file = typeof source === 'string' ? await storedFile(source) : undefined
    if (!file) throw new Error('Parquet is read from its end, so it must be a file')
    const { ParquetFile } = await import('./parquet-file.js')
    let number = 0
    for await (const fields of (await ParquetFile.open(file)).rows()) yield { number: ++number, text: '', fields }
  } catch (error) {
    throw unreadable(source, error)
  }
}

function unreadable(source: Source, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const name = nameOf(source)
  return new RankmillError('invalid_request', `cannot read ${name}: ${(error as Error).message}`, { param: name })
}
