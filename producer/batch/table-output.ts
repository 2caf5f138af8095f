/** A run's answers as a table: the columns of its input, and beside each row what was answered. */
import { createReadStream } from 'node:fs'
import { open, readdir, realpath, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { SchemaElement } from 'hyparquet'
import { RankmillError } from '../../shared/errors.js'
import type { RankedDocument } from '../../shared/protocol/result.js'
import { compressionOf } from '../lines/compression.js'
import { readLines } from '../lines/line-reader.js'
import { recordFormatOf } from '../lines/record-format.js'
import { openRows, type Rows } from '../lines/table-rows.js'
import { unreadable } from './batch-source.js'
import type { RunFolder } from './run-folder.js'
import { csvWriter, parquetWriter, type TableWriter } from './table-writers.js'

/** Of the answer, or `null` where there is none. */
const ADDED = ['results', 'error'] as const
/** Of inputs that are no tables. */
const NAME_COLUMN = 'custom_id'
/** Of decimals that a double holds. */
const MOST_DIGITS = 15
/** Rows that are held at once: one row group of Parquet. */
const GROUP_ROWS = 1000
const GROUP_BYTES = 16 * 2 ** 20

export interface TableSource {
  /** Where they are tables, as many rows as answers. */
  readonly inputs: readonly string[]
  /** The finished run's JSON lines, in order. */
  readonly answers: string
  readonly maxRowBytes: number
}

/** What goes into a table besides the answers. @throws RankmillError `invalid_configuration` where it cannot, `input_unreadable` */
export async function checkTable({ inputs, maxRowBytes }: Omit<TableSource, 'answers'>): Promise<Columns> {
  const tables = inputs.filter((input) => recordFormatOf(input) !== 'jsonl')
  if (tables.length === 0) return { names: [NAME_COLUMN], schema: undefined, tables: [] }
  const opened = await Promise.all(
    tables.map((path) =>
      openRows(path, maxRowBytes).catch((error) => {
        throw unreadable(path, error)
      }),
    ),
  )
  const names = opened[0]?.columns ?? []
  const other = opened.findIndex(({ columns }) => columns.join('\n') !== names.join('\n'))
  if (tables.length < inputs.length || other >= 0) {
    const message = `output: a table needs inputs with the same columns, and ${inputs[0]} and ${tables[other] ?? 'others'} differ`
    throw new RankmillError('invalid_configuration', message, { param: 'output' })
  }
  const taken = ADDED.find((name) => names.includes(name))
  if (taken !== undefined) {
    const message = `output: the input has a column ${JSON.stringify(taken)} already: write JSON lines, or rename it`
    throw new RankmillError('invalid_configuration', message, { param: 'output' })
  }
  const schema = opened[0]?.schema
  const decimal = schema?.find(
    ({ converted_type, precision = 0 }) => converted_type === 'DECIMAL' && precision > MOST_DIGITS,
  )
  if (decimal) {
    const message = `output: the input's column ${decimal.name} has decimals of ${decimal.precision} digits, and at most ${MOST_DIGITS} can be copied: write JSON lines`
    throw new RankmillError('invalid_configuration', message, { param: 'output' })
  }
  return { names, schema, tables: opened }
}

interface Columns {
  readonly names: readonly string[]
  /** Parquet's, of the columns. */
  readonly schema: readonly SchemaElement[] | undefined
  readonly tables: readonly Rows[]
}

/**
 * Writes the table beside its place, and puts it there when it is whole and the claim still holds.
 *
 * @param output `.csv`, `.tsv` (compressed or not) or `.parquet`
 * @param claim names the file beside it, so that one who took over while this one slept writes another
 * @throws RankmillError `invalid_configuration`, `output_unwritable`
 */
export async function writeTable(source: TableSource, output: string, claim: RunFolder): Promise<void> {
  const columns = await checkTable(source)
  // Through a link: it stays one.
  const target = await realpath(output).catch(() => output)
  const partial = `${target}.partial.${claim.number}`
  try {
    await removeEarlier(target, claim.number)
    const isParquet = recordFormatOf(output) === 'parquet'
    const writer = isParquet
      ? await parquetWriter(partial, columns.names, columns.schema)
      : await csvWriter(
          partial,
          [...columns.names, ...ADDED],
          recordFormatOf(output) === 'tsv' ? '\t' : ',',
          compressionOf(output),
        )
    await writeRows(source, columns, writer, isParquet ? 'copy' : 'text')
    const file = await open(partial, 'r')
    await file.sync().finally(() => file.close())
    await claim.check()
    await rename(partial, target)
    const folder = await open(dirname(target), 'r')
    await folder.sync().finally(() => folder.close())
  } catch (error) {
    await rm(partial, { force: true })
    // Whoever took over has removed what this one wrote.
    await claim.check()
    if (error instanceof RankmillError) throw error
    const message = `${output}: ${error instanceof Error ? error.message : String(error)}`
    throw new RankmillError('output_unwritable', message, { param: 'output' }, { cause: error })
  }
}

/** What was begun under earlier claims, by runners that were killed or that sleep. */
async function removeEarlier(target: string, claim: number): Promise<void> {
  const prefix = `${basename(target)}.partial.`
  for (const name of await readdir(dirname(target))) {
    if (name.startsWith(prefix) && Number(name.slice(prefix.length)) < claim) {
      await rm(join(dirname(target), name), { force: true })
    }
  }
}

async function writeRows(
  source: TableSource,
  { tables, names }: Columns,
  writer: TableWriter,
  as: 'copy' | 'text',
): Promise<void> {
  const rows = tables.length > 0 ? rowsOf(tables, as) : undefined
  let group: Record<string, unknown>[] = []
  let bytes = 0
  for await (const { text, answer } of answersOf(source.answers)) {
    const row = rows ? await rows.next() : undefined
    if (row?.done) throw changed(source)
    const fields = row?.value ?? { [NAME_COLUMN]: answer.custom_id }
    group.push({ ...fields, results: answer.response?.body.results ?? null, error: errorOf(answer) })
    bytes += text.length + names.reduce((sum, name) => sum + String(fields[name] ?? '').length, 0)
    if (group.length < GROUP_ROWS && bytes < GROUP_BYTES) continue
    await writer.write(group)
    group = []
    bytes = 0
  }
  if (rows && !(await rows.next()).done) throw changed(source)
  if (group.length > 0) await writer.write(group)
  await writer.finish()
}

async function* rowsOf(
  tables: readonly Rows[],
  as: 'copy' | 'text',
): AsyncGenerator<Readonly<Record<string, unknown>>> {
  for (const table of tables) for await (const { fields } of table.read(0, { as })) yield fields
}

interface Answer {
  readonly custom_id: string | null
  readonly response: { readonly body: { readonly results: readonly RankedDocument[] } } | null
  readonly error: { readonly code: string; readonly message: string } | null
}

async function* answersOf(path: string): AsyncGenerator<{ text: string; answer: Answer }> {
  for await (const { bytes } of readLines(createReadStream(path), Number.MAX_SAFE_INTEGER)) {
    const text = bytes?.toString() ?? ''
    yield { text, answer: JSON.parse(text) as Answer }
  }
}

function errorOf({ error }: Answer): string | null {
  return error ? `${error.code}: ${error.message}` : null
}

function changed({ inputs, answers }: TableSource): RankmillError {
  const message = `${inputs.join(', ')}: has other rows than ${answers} has answers for: it was changed meanwhile`
  return new RankmillError('input_unreadable', message, { param: 'input' })
}
