/** Writers of tables, a group of rows at a time. */
import { isUtf8 } from 'node:buffer'
import { open } from 'node:fs/promises'
import { stringify } from 'csv-stringify/sync'
import type { SchemaElement } from 'hyparquet'
import { type Compression, compressedFrame } from '../lines/compression.js'

export interface TableWriter {
  /** Rows with a value for each column; null: none. */
  write(rows: readonly Readonly<Record<string, unknown>>[]): Promise<void>
  finish(): Promise<void>
}

/** Lists and records become JSON; bytes that are no text base64. */
export async function csvWriter(
  path: string,
  columns: readonly string[],
  delimiter: string,
  compression: Compression,
): Promise<TableWriter> {
  const file = await open(path, 'w')
  const lines = (rows: readonly (readonly unknown[])[]) =>
    stringify(
      rows.map((row) => row.map(cellOf)),
      { delimiter, cast: { boolean: String, bigint: String } },
    )
  const append = async (text: string) => {
    await file.writeFile(await compressedFrame(Buffer.from(text), compression))
  }
  await append(lines([columns]))
  return {
    write: (rows) => append(lines(rows.map((row) => columns.map((name) => row[name])))),
    finish: () => file.close(),
  }
}

const text = (name: string): SchemaElement => ({
  name,
  type: 'BYTE_ARRAY',
  converted_type: 'UTF8',
  repetition_type: 'OPTIONAL',
})

/** What a request was answered with: a list of records, as in the JSON lines. */
const ANSWER: readonly SchemaElement[] = [
  { name: 'results', repetition_type: 'OPTIONAL', converted_type: 'LIST', num_children: 1 },
  { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
  { name: 'element', repetition_type: 'OPTIONAL', num_children: 5 },
  { name: 'index', type: 'INT32', repetition_type: 'OPTIONAL' },
  text('id'),
  { name: 'relevance_score', type: 'DOUBLE', repetition_type: 'OPTIONAL' },
  text('scored_by'),
  text('document'),
  text('error'),
]

function cellOf(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString(isUtf8(value) ? 'utf8' : 'base64')
  return typeof value === 'object' && value !== null ? JSON.stringify(value, big) : value
}

/** As hyparquet-writer writes it well: INT96 as the time that it holds, kinds of integers under their older names. */
function written(element: SchemaElement): SchemaElement {
  const { logical_type: kind, ...rest } = element
  if (kind?.type === 'INTEGER')
    return { ...rest, converted_type: `${kind.isSigned ? 'INT' : 'UINT'}_${kind.bitWidth as 8 | 16 | 32 | 64}` }
  if (element.type !== 'INT96') return element
  const logical_type = { type: 'TIMESTAMP', isAdjustedToUTC: false, unit: 'NANOS' } as const
  return { ...element, type: 'INT64', logical_type }
}

/** @param schema of the columns that are copied; undefined: all are texts */
export async function parquetWriter(
  path: string,
  columns: readonly string[],
  schema: readonly SchemaElement[] | undefined,
): Promise<TableWriter> {
  const { fileWriter, ParquetWriter } = await import('hyparquet-writer')
  const elements = [...(schema?.map(written) ?? columns.map(text)), ...ANSWER]
  const root = { name: 'root', num_children: columns.length + 2 }
  const writer = new ParquetWriter({ writer: fileWriter(path), schema: [root, ...elements], createdBy: 'rankmill' })
  return {
    write: async (rows) => {
      const columnData = [...columns, 'results', 'error'].map((name) => ({
        name,
        data: rows.map((row) => (name === 'results' ? resultsOf(row[name]) : row[name])),
      }))
      await writer.write({ columnData, rowGroupSize: rows.length })
    },
    finish: async () => {
      await writer.finish()
    },
  }
}

function resultsOf(results: unknown): unknown {
  if (!Array.isArray(results)) return null
  return results.map(({ index, id = null, relevance_score, scored_by = null, document = null }) => ({
    index,
    id,
    relevance_score,
    scored_by,
    document: typeof document === 'object' && document !== null ? document.text : document,
  }))
}

function big(_: string, value: unknown): unknown {
  if (value instanceof Uint8Array) return cellOf(value)
  return typeof value === 'bigint' ? String(value) : value
}
