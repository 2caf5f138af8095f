/** Files that are not what their name says: what they are by their beginning, and how they are to be called or mended. */
import { parse } from 'csv-parse/sync'
import { type Compression, compressionOf } from './compression.js'
import { DELIMITERS, type RecordFormat } from './record-format.js'

/** So much of a content tells what it is. */
export const HEAD_BYTES = 65_536

/** The beginning of a content. */
export interface Head {
  readonly bytes: Buffer
  /** There is no more than this. */
  readonly isWhole: boolean
}

/** What a content is. */
interface Kind {
  readonly is: string
  /** As what it could be read, where Rankmill reads it. */
  readonly as?: RecordFormat | Compression
  /** What to do about it, where another name does not help. */
  readonly fix?: string
}

const SIGNATURES: readonly (Kind & { readonly bytes: Buffer })[] = [
  { bytes: Buffer.from([0x1f, 0x8b]), is: 'gzip', as: 'gzip' },
  { bytes: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), is: 'Zstandard', as: 'zstd' },
  { bytes: Buffer.from('PAR1'), is: 'Parquet', as: 'parquet' },
  {
    bytes: Buffer.from([0x50, 0x4b, 3, 4]),
    is: 'a ZIP archive (as .xlsx is)',
    fix: 'unpack it; a sheet can be saved as CSV',
  },
  { bytes: Buffer.from('BZh'), is: 'bzip2', fix: 'decompress it, or compress it with gzip or zstd' },
  {
    bytes: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a]),
    is: 'xz',
    fix: 'decompress it, or compress it with gzip or zstd',
  },
  { bytes: Buffer.from('%PDF'), is: 'a PDF', fix: 'its text is needed, not its pages' },
  { bytes: Buffer.from('SQLite format 3'), is: 'a database of SQLite', fix: 'export the table as CSV' },
  { bytes: Buffer.from([0xff, 0xfe]), is: 'text in UTF-16', fix: '`iconv -f UTF-16 -t UTF-8` converts it' },
  { bytes: Buffer.from([0xfe, 0xff]), is: 'text in UTF-16', fix: '`iconv -f UTF-16 -t UTF-8` converts it' },
]
const ENDINGS: Readonly<Record<string, string>> = {
  jsonl: '.jsonl',
  csv: '.csv',
  tsv: '.tsv',
  parquet: '.parquet',
  gzip: '.gz',
  zstd: '.zst',
}
const FORMATS: Readonly<Record<RecordFormat | 'text', string>> = {
  jsonl: 'JSON lines',
  csv: 'CSV',
  tsv: 'TSV',
  parquet: 'Parquet',
  text: 'lines of text',
}
/** What columns are called, surely and perhaps; a text that has commas in it has sentences. */
const IDENTIFIER = /^[a-z_][\w.-]*$/i
const COLUMN_NAME = /^[^.!?\n]{1,40}$/

const JSON_ARRAY: Kind = { is: 'a JSON array', fix: "write one object a line (`jq -c '.[]'`)" }
const JSON_OVER_LINES: Kind = { is: 'JSON over several lines', fix: 'write one object a line (`jq -c .`)' }
const TEXT: Kind = { is: 'text', fix: 'each line must be a JSON object, and of those at its beginning none is' }
const HTML: Kind = {
  is: 'an HTML page',
  fix: 'download the file itself; a page in its place often says what was in the way',
}

/** The beginning of bytes of which no more is read. */
export async function headOf(content: AsyncIterable<Uint8Array>): Promise<Head> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of content) {
    parts.push(part)
    length += part.length
    if (length > HEAD_BYTES) break
  }
  return { bytes: Buffer.concat(parts).subarray(0, HEAD_BYTES), isWhole: length <= HEAD_BYTES }
}

/**
 * What is wrong with a file whose beginning is not of the format that its name says, and how to mend it, for a person. A file
 * in which only some of the lines are not what they should be is none of these.
 *
 * @param format `text`: lines that may be anything
 * @param otherwise what else could be done with text that is no records
 * @returns undefined where nothing speaks against the format
 */
export function mistakenFormat(
  name: string,
  format: RecordFormat | 'text',
  head: Head,
  otherwise?: string,
): string | undefined {
  if (head.bytes.length === 0) return undefined
  const kind = signatureOf(head) ?? (format === 'text' ? undefined : textKindOf(head, format))
  if (!kind || kind.as === format) return undefined
  return `is ${kind.is}, not ${FORMATS[format]}: ${fixOf(kind, name, otherwise)}`
}

/** The records among the whole lines of a beginning. */
export function recordsIn(head: Head): Readonly<Record<string, unknown>>[] {
  return linesOf(head).map(parsed).filter(isRecord)
}

/** The same of a compressed file, by its first bytes as they are stored. */
export function mistakenCompression(name: string, stored: Head): string | undefined {
  const compression = compressionOf(name)
  if (compression === 'none' || stored.bytes.length === 0) return undefined
  const kind = signatureOf(stored)
  // What neither is known nor is text is for the decompressor to say: Zstandard may begin in several ways.
  if (kind?.as === compression || (!kind && !isText(stored))) return undefined
  const plain = name.slice(0, -(ENDINGS[compression] ?? '').length)
  const is = kind?.is ?? 'not compressed'
  const another = kind?.as === 'gzip' || kind?.as === 'zstd' ? `${plain}${ENDINGS[kind.as]}` : plain
  return `is ${is}, though its name ends in ${ENDINGS[compression]}: ${kind?.fix ?? `call it ${another}`}`
}

function fixOf({ is, as, fix }: Kind, name: string, otherwise: string | undefined): string {
  if (as === undefined) return is === TEXT.is && otherwise !== undefined ? `${fix}; ${otherwise}` : (fix ?? '')
  const isFile = !/^(standard input|stdin|\/(dev|proc)\/.*)$/.test(name)
  if (as === 'gzip' || as === 'zstd') {
    const program = as === 'gzip' ? 'gunzip -c' : 'zstd -dc'
    return isFile ? `call it ${name}${ENDINGS[as]}` : `decompress it on the way (\`${program}\`)`
  }
  const ending = ENDINGS[as] ?? ''
  if (!isFile) return `a file whose name ends in ${ending} is read as such`
  const [, base = name, , packed = ''] =
    /^(.*?)(\.(?:jsonl?|ndjson|csv|tsv|parquet|txt))?(\.(?:gz|zst))?$/is.exec(name) ?? []
  return `call it ${base}${ending}${as === 'parquet' ? '' : packed}`
}

/** Letters, and what is between lines and columns. */
function isText({ bytes }: Head): boolean {
  return bytes.subarray(0, 64).every((byte) => byte >= 0x20 || (byte >= 0x09 && byte <= 0x0d))
}

function signatureOf({ bytes }: Head): Kind | undefined {
  return SIGNATURES.find((signature) => bytes.subarray(0, signature.bytes.length).equals(signature.bytes))
}

function textOf({ bytes }: Head): string {
  return bytes.toString().replace(/^\uFEFF/, '')
}

/** Without blank ones, and without the last where it may be cut off. */
function linesOf(head: Head): string[] {
  const lines = textOf(head).split('\n')
  if (!head.isWhole && lines.length > 1) lines.pop()
  return lines.filter((line) => line.trim() !== '')
}

/** What a text is. @param expected decides where it could be read in two ways */
function textKindOf(head: Head, expected: RecordFormat): Kind | undefined {
  const { bytes, isWhole } = head
  const text = textOf(head)
  const full = linesOf(head)
  const [first = ''] = full
  const whole = isWhole ? parsed(text) : undefined
  if (Array.isArray(whole) && (full.length > 1 || whole.some(isRecord))) return JSON_ARRAY
  if (isRecord(whole) && full.length > 1) return JSON_OVER_LINES
  // Objects in an object that is written over lines are indented.
  const looked = expected === 'jsonl' || expected === 'parquet' ? full : [first]
  if (looked.some((line) => line.startsWith('{') && isRecord(parsed(line)))) return { is: 'JSON lines', as: 'jsonl' }
  if (bytes.includes(0)) return { is: 'binary data', fix: 'text in UTF-8 is needed' }
  if (/^\s*<(!doctype html|html|head|body|script)\b/i.test(text)) return HTML
  if (/^\s*<[?!a-z]/i.test(text)) return { is: 'XML', fix: 'convert it to JSON lines or CSV' }
  if (text.trimStart().startsWith('[') && parsed(first) === undefined && (full.length > 1 || !isWhole))
    return JSON_ARRAY
  if (text.trimStart().startsWith('{')) return objectKindOf(full)
  if (expected === 'csv' || expected === 'tsv') return rowsOtherwise(text, first, expected)
  // A line that stands alone is an error of its own.
  if (full.length < 2 && isWhole) return undefined
  return rowsIn(full.join('\n')) ?? TEXT
}

/** Of lines none of which is a whole object. Where they only are broken, each is an error of its own. */
function objectKindOf(lines: readonly string[]): Kind | undefined {
  const [first = ''] = lines
  if (lines.length > 1 && /^\s*\{\s*$|[{[,]\s*$/.test(first)) return JSON_OVER_LINES
  if (lines.length > 1 && lines.every((line) => /^\{\s*'/.test(line)))
    return { is: "objects in Python's notation", fix: 'write them with `json.dumps`' }
  return undefined
}

/** A table whose columns are divided by something else than its name says. */
function rowsOtherwise(text: string, header: string, expected: 'csv' | 'tsv'): Kind | undefined {
  return header.includes(DELIMITERS[expected]) ? undefined : rowsIn(text)
}

function rowsIn(text: string): Kind | undefined {
  if (hasRows(text, '\t')) return { is: 'TSV', as: 'tsv' }
  if (hasRows(text, ',')) return { is: 'CSV', as: 'csv' }
  return hasRows(text, ';') ? { is: 'a table divided by semicolons', fix: 'save it as CSV, with commas' } : undefined
}

/** Whether it begins with names of columns, and a row that has as many where the names are not plain. */
function hasRows(text: string, delimiter: string): boolean {
  const rows = (to: number): string[][] => {
    try {
      return parse(text, { delimiter, to, trim: true, skip_empty_lines: true })
    } catch {
      return []
    }
  }
  const [header = []] = rows(1)
  if (header.length < 2) return false
  return (
    header.every((name) => IDENTIFIER.test(name)) ||
    (header.every((name) => COLUMN_NAME.test(name)) && rows(2).length > 1)
  )
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
