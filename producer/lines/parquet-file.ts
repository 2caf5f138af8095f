/** Rows of Parquet files, a row group at a time. */
import { brotliDecompressSync, gunzipSync } from 'node:zlib'
import {
  type AsyncBuffer,
  type Compressors,
  type FileMetaData,
  type ParquetParsers,
  parquetMetadataAsync,
  parquetReadObjects,
} from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { HEAD_BYTES, headOf, mistakenFormat } from './mistaken-format.js'
import type { StoredBytes } from './stored-bytes.js'

export type ParquetRow = Readonly<Record<string, unknown>>

/** Node's own where it has them. */
const DECOMPRESSORS: Compressors = {
  ...compressors,
  GZIP: (bytes) => gunzipSync(bytes),
  BROTLI: (bytes) => brotliDecompressSync(bytes),
}

/** What becomes of values that JavaScript has no exact type for. */
export interface RowForm {
  /** Names of columns; default: all. */
  readonly columns?: readonly string[] | undefined
  /**
   * `copy`: as `hyparquet-writer` writes them back, times as their numbers and bytes as bytes. `text`: times in ISO 8601 with
   * all their digits. Default: dates, and bytes as UTF-8.
   */
  readonly as?: 'copy' | 'text' | undefined
}

const raw = (value: bigint) => value
const COPIED: Partial<ParquetParsers> = {
  timestampFromMilliseconds: raw,
  timestampFromMicroseconds: raw,
  timestampFromNanoseconds: raw,
}
const WRITTEN: Partial<ParquetParsers> = {
  timestampFromMilliseconds: (millis) => isoOf(millis, 3),
  timestampFromMicroseconds: (micros) => isoOf(micros, 6),
  timestampFromNanoseconds: (nanos) => isoOf(nanos, 9),
  dateFromDays: (days) => new Date(days * 86_400_000).toISOString().slice(0, 10),
}

/** @param digits after the seconds */
function isoOf(value: bigint, digits: number): string {
  const second = 10n ** BigInt(digits)
  const rest = ((value % second) + second) % second
  const whole = new Date(Number((value - rest) / second) * 1000).toISOString().slice(0, -5)
  return `${whole}.${String(rest).padStart(digits, '0')}Z`
}

export class ParquetFile {
  readonly metadata: FileMetaData
  readonly #buffer: AsyncBuffer

  /** @throws Error where it is no Parquet */
  static async open(file: StoredBytes): Promise<ParquetFile> {
    const buffer: AsyncBuffer = {
      byteLength: file.size,
      slice: async (start, end = file.size) => bytesOf(file, start, end),
    }
    const metadata = await parquetMetadataAsync(buffer).catch(async (error) => {
      const mistake = mistakenFormat(file.name, 'parquet', await headOf(file.read(0, HEAD_BYTES + 1)))
      throw mistake === undefined ? error : new Error(mistake)
    })
    return new ParquetFile(buffer, metadata)
  }

  private constructor(buffer: AsyncBuffer, metadata: FileMetaData) {
    this.#buffer = buffer
    this.metadata = metadata
  }

  get rowCount(): number {
    return Number(this.metadata.num_rows)
  }

  /** Names of the columns at the top, in their order. */
  get columns(): string[] {
    const [root, ...elements] = this.metadata.schema
    const names: string[] = []
    let skipped = 0
    for (const { name, num_children } of elements) {
      if (skipped > 0) skipped--
      else if (names.length < (root?.num_children ?? 0)) names.push(name)
      skipped += num_children ?? 0
    }
    return names
  }

  /** Rows from a place on, in memory for one row group. */
  async *rows(from = 0, { columns, as }: RowForm = {}): AsyncGenerator<ParquetRow> {
    let rowStart = 0
    for (const group of this.metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows)
      if (rowEnd > from) {
        const found = await parquetReadObjects({
          file: this.#buffer,
          metadata: this.metadata,
          rowStart: Math.max(rowStart, from),
          rowEnd,
          compressors: DECOMPRESSORS,
          ...(columns ? { columns: [...columns] } : {}),
          ...(as ? { utf8: false, parsers: as === 'copy' ? COPIED : WRITTEN, geoparquet: false } : {}),
        })
        yield* found
      }
      rowStart = rowEnd
    }
  }
}

async function bytesOf(file: StoredBytes, start: number, end: number): Promise<ArrayBuffer> {
  const from = start < 0 ? file.size + start : start
  const bytes = new Uint8Array(end - from)
  let at = 0
  for await (const chunk of file.read(from, end)) {
    bytes.set(chunk, at)
    at += chunk.length
  }
  if (at !== bytes.length) throw new Error('ends too early')
  return bytes.buffer
}
