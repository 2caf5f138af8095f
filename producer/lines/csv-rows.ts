/** Rows of CSV and TSV files, whose first line names the columns. */
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CsvError, type Info, parse } from 'csv-parse'

export interface CsvRow {
  /** Of the line that the row ends at, from 1. */
  readonly number: number
  readonly columns: readonly string[]
  /** Of the column at the same place. */
  readonly values: readonly string[]
  /** The first: its values are the names. */
  readonly isHeader: boolean
}

/** What is wrong with a file of rows, and where. */
export class RowError extends Error {
  readonly number: number

  constructor(number: number, message: string) {
    super(message)
    this.number = number
  }
}

/**
 * Streams rows in bounded memory.
 *
 * @param delimiter between columns
 * @param maxRowBytes a larger one is no row
 * @throws RowError where columns have no name or two of them the same, and where a row has more or fewer than those
 */
export async function* csvRows(
  bytes: AsyncIterable<Uint8Array>,
  delimiter: ',' | '\t',
  maxRowBytes: number,
): AsyncGenerator<CsvRow> {
  // In TSV nothing but tabs and line ends needs quotes: JSON may stand there as it is.
  const relax = { relax_quotes: delimiter === '\t' }
  const parser = parse({
    ...relax,
    delimiter,
    bom: true,
    info: true,
    skip_empty_lines: true,
    max_record_size: maxRowBytes,
  })
  const feeding = pipeline(Readable.from(utf8(bytes)), parser).catch(() => undefined)
  let columns: readonly string[] | undefined
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: Info }>) {
      const isHeader: boolean = columns === undefined
      columns ??= checkColumns(record, info.lines)
      yield { number: info.lines, columns, values: record, isHeader }
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error
    const line = (error as CsvError & { lines?: number }).lines ?? 1
    throw new RowError(line, reasonOf(error, columns))
  } finally {
    parser.destroy()
    await feeding
  }
}

function checkColumns(columns: readonly string[], line: number): readonly string[] {
  const empty = columns.indexOf('')
  if (empty >= 0) throw new RowError(line, `column ${empty + 1} has no name: the first line must name the columns`)
  const twice = columns.find((name, i) => columns.indexOf(name) !== i)
  if (twice !== undefined) throw new RowError(line, `two columns are called ${JSON.stringify(twice)}`)
  return columns
}

function reasonOf(error: CsvError, columns: readonly string[] | undefined): string {
  if (error.code === 'CSV_RECORD_INCONSISTENT_FIELDS_LENGTH' && columns) {
    const found = (error as CsvError & { record?: unknown[] }).record?.length
    return `must have ${columns.length} columns (${columns.join(', ')}), got ${found}`
  }
  if (error.code === 'INVALID_OPENING_QUOTE')
    return 'a value with quotes in it must be in quotes, with those in it doubled'
  return error.message
}

async function* utf8(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const check = (decode: () => string) => {
    try {
      decode()
    } catch {
      throw new Error('must be UTF-8 text')
    }
  }
  for await (const chunk of bytes) {
    check(() => decoder.decode(chunk, { stream: true }))
    yield chunk
  }
  check(() => decoder.decode())
}
