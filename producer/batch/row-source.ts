/** Requests from tables: each row of a CSV, TSV or Parquet file is one, with its query and its documents in columns. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { DigestChain, NO_CONTENT } from '../lines/digest-chain.js'
import type { LineMark } from '../lines/line-reader.js'
import { openRows, type Rows, type TableRow } from '../lines/table-rows.js'
import { type BatchItem, type BatchSource, type InputMark, unreadable } from './batch-source.js'

/** Names of columns. */
export interface RequestColumns {
  readonly query: string
  /** A list of texts or of records with `text`, and perhaps `title` and `_id` or `id`; in CSV and TSV as JSON. */
  readonly documents: string
}

export const REQUEST_COLUMNS: RequestColumns = { query: 'query', documents: 'documents' }

/** Columns that may name a request; the first that is there counts. */
const ID_COLUMNS = ['custom_id', '_id', 'id']

export class RowSource implements BatchSource {
  readonly name: string
  readonly #rows: Rows
  readonly #columns: RequestColumns
  readonly #idColumn: string | undefined

  /** @throws RankmillError `input_unreadable`, also where a column is not there */
  static async open(path: string, columns: RequestColumns, maxRowBytes: number): Promise<RowSource> {
    try {
      return new RowSource(path, await openRows(path, maxRowBytes), columns)
    } catch (error) {
      throw unreadable(path, error)
    }
  }

  private constructor(name: string, rows: Rows, columns: RequestColumns) {
    this.name = name
    this.#rows = rows
    this.#columns = columns
    if (rows.columns.length === 0)
      throw new RankmillError('input_unreadable', `${name}: is empty: its first line names the columns`)
    const missing = Object.entries(columns).find(([_, column]) => !rows.columns.includes(column))
    if (missing) {
      const [part, column] = missing
      const message = `${name}: has no column ${JSON.stringify(column)} for the ${part}, but ${rows.columns.join(', ')}; --${part}-column names another`
      throw new RankmillError('input_unreadable', message, { param: `${part}Column` })
    }
    this.#idColumn = ID_COLUMNS.find((column) => rows.columns.includes(column))
  }

  shareBefore(row: number): number | undefined {
    return this.#rows.count === undefined ? undefined : row / Math.max(1, this.#rows.count)
  }

  /** With the columns' names: others make other requests of the same file. */
  async fingerprint(): Promise<string> {
    try {
      const chain = new DigestChain()
      chain.update(JSON.stringify([await this.#rows.fingerprint(), this.#columns, this.#idColumn]))
      return chain.link()
    } catch (error) {
      throw unreadable(this.name, error)
    }
  }

  async digestAt({ line }: LineMark): Promise<string | undefined> {
    const chain = new DigestChain()
    let last = { row: 0, digest: NO_CONTENT }
    for await (const { row, values } of this.#read(0)) {
      if (row > line) break
      last = { row, digest: linked(chain, values) }
    }
    return last.row === line ? last.digest : undefined
  }

  async *read(from: InputMark): AsyncGenerator<BatchItem> {
    const chain = new DigestChain(from.digest)
    for await (const { row, values } of this.#read(from.line)) {
      const [query, documents, id] = values
      const digest = linked(chain, values)
      const customId = id === undefined || id === null ? null : String(id)
      const at = { line: row, end: row, digest, bytes: sizeOf(query) + sizeOf(documents), customId }
      try {
        yield { ...at, request: { query, documents: documentsOf(documents, this.#columns.documents) } as RerankInput }
      } catch (error) {
        yield { ...at, error: RankmillError.from(error) }
      }
    }
  }

  async *#read(from: number): AsyncGenerator<{ row: number; values: unknown[] }> {
    const names = [this.#columns.query, this.#columns.documents, ...(this.#idColumn ? [this.#idColumn] : [])]
    try {
      for await (const { row, fields } of this.#rows.read(from, { columns: names })) {
        yield { row, values: names.map((name) => fields[name]) }
      }
    } catch (error) {
      throw unreadable(this.name, error)
    }
  }
}

function linked(chain: DigestChain, values: TableRow['fields'][string][]): string {
  chain.update(JSON.stringify(values, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
  return chain.link()
}

function documentsOf(value: unknown, column: string): unknown {
  const list = typeof value === 'string' ? parsed(value, column) : value
  if (!Array.isArray(list)) return list
  return list.map((document, i) => (isRecord(document) ? documentOf(document, `${column}.${i}`) : document))
}

function parsed(text: string, column: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const message = `${column}: must be a list, as JSON: ${(error as Error).message}`
    throw new RankmillError('invalid_request', message, { param: column })
  }
}

/** Other fields of a record are the table's business. */
function documentOf(record: Readonly<Record<string, unknown>>, param: string): unknown {
  const { text, title, score } = record
  if (typeof text !== 'string') throw new RankmillError('invalid_request', `${param}.text: must be a string`, { param })
  const id = record['_id'] ?? record['id']
  return {
    ...(id === undefined || id === null ? {} : { id: typeof id === 'object' ? id : String(id) }),
    text: typeof title === 'string' && title !== '' ? `${title} ${text}` : text,
    ...(score === undefined || score === null ? {} : { score }),
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function sizeOf(value: unknown): number {
  if (typeof value === 'string') return value.length
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + sizeOf(item), 0)
  return isRecord(value) ? Object.values(value).reduce<number>((sum, item) => sum + sizeOf(item), 0) : 8
}
