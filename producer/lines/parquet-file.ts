/** Rows of Parquet files, a row group at a time. */
import { brotliDecompressSync, gunzipSync } from 'node:zlib'
import {
  type AsyncBuffer,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
} from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import type { StoredFile } from './stored-file.js'

export type ParquetRow = Readonly<Record<string, unknown>>

/** Node's own where it has them. */
const DECOMPRESSORS: Compressors = {
  ...compressors,
  GZIP: (bytes) => gunzipSync(bytes),
  BROTLI: (bytes) => brotliDecompressSync(bytes),
}

export class ParquetFile {
  readonly metadata: FileMetaData
  readonly #buffer: AsyncBuffer

  /** @throws Error where it is no Parquet */
  static async open(file: StoredFile): Promise<ParquetFile> {
    const buffer: AsyncBuffer = {
      byteLength: file.size,
      slice: async (start, end = file.size) => bytesOf(file, start, end),
    }
    return new ParquetFile(buffer, await parquetMetadataAsync(buffer))
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

  /**
   * Rows from a place on, in memory for one row group.
   *
   * @param columns undefined: all
   */
  async *rows(from = 0, columns?: readonly string[]): AsyncGenerator<ParquetRow> {
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
        })
        yield* found
      }
      rowStart = rowEnd
    }
  }
}

async function bytesOf(file: StoredFile, start: number, end: number): Promise<ArrayBuffer> {
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
