/** Tables, row by row: CSV, TSV, Parquet. */
import type { SchemaElement } from 'hyparquet'
import { openContent } from './content.js'
import { csvRows, RowError } from './csv-rows.js'
import { mistakenFormat } from './mistaken-format.js'
import type { RowForm } from './parquet-file.js'
import { DELIMITERS, recordFormatOf } from './record-format.js'
import { storedFile } from './stored-file.js'

export interface TableRow {
  /** From 1. */
  readonly row: number
  readonly fields: Readonly<Record<string, unknown>>
}

export interface Rows {
  readonly columns: readonly string[]
  /** Parquet's, of the columns. */
  readonly schema: readonly SchemaElement[] | undefined
  /** undefined where only reading tells. */
  readonly count: number | undefined
  fingerprint(): Promise<string>
  /** Rows after a number of them. Of columns that are not named, Parquet reads nothing. @throws Error, naming the place */
  read(after: number, form?: RowForm): AsyncIterable<TableRow>
}

/** @throws Error of the system, or saying why the file is no table */
export async function openRows(path: string, maxRowBytes: number): Promise<Rows> {
  const format = recordFormatOf(path)
  const file = await storedFile(path)
  if (!file) throw new Error('a table must be a file: it is read more than once')
  if (format === 'parquet') {
    const { ParquetFile } = await import('./parquet-file.js')
    const parquet = await ParquetFile.open(file)
    return {
      columns: parquet.columns,
      schema: parquet.metadata.schema.slice(1),
      count: parquet.rowCount,
      fingerprint: () => file.fingerprint(),
      async *read(after, form) {
        let row = after
        for await (const fields of parquet.rows(after, form)) yield { row: ++row, fields }
      },
    }
  }
  const delimited = format === 'tsv' ? 'tsv' : 'csv'
  const mistake = mistakenFormat(path, delimited, await (await openContent(path)).head())
  if (mistake !== undefined) throw new Error(mistake)
  const read = async function* () {
    yield* csvRows((await openContent(path)).read(0), DELIMITERS[delimited], maxRowBytes)
  }
  return {
    columns: await headerOf(read()).catch(placed),
    schema: undefined,
    count: undefined,
    fingerprint: () => file.fingerprint(),
    async *read(after) {
      let row = 0
      try {
        for await (const { columns, values, isHeader } of read()) {
          if (isHeader || ++row <= after) continue
          yield { row, fields: Object.fromEntries(columns.map((name, i) => [name, values[i] ?? ''])) }
        }
      } catch (error) {
        placed(error)
      }
    },
  }
}

function placed(error: unknown): never {
  throw error instanceof RowError ? new Error(`line ${error.number}: ${error.message}`) : error
}

async function headerOf(rows: AsyncIterable<{ readonly columns: readonly string[] }>): Promise<readonly string[]> {
  for await (const { columns } of rows) return columns
  return []
}
