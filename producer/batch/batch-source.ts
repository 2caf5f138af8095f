/** What a batch run reads: items one after another, from any place on, and a fingerprint that tells inputs apart. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { compressionOf, decompressed } from '../lines/compression.js'
import { type LineMark, readLines } from '../lines/line-reader.js'
import { parseBatchLine } from './batch-line.js'

/** One request of the input, or what is wrong with it. */
export type BatchItem = {
  /** Place in the input, from 1, rising; a file's line number. */
  readonly line: number
  /** Offset after which reading goes on. */
  readonly end: number
  /** Size in the input: what the item costs in memory while it is under way. */
  readonly bytes: number
  readonly customId: string | null
} & (
  | { readonly request: RerankInput; readonly error?: undefined }
  | { readonly error: RankmillError; readonly request?: undefined }
)

export type BatchOutcome =
  | { readonly result: RerankResult; readonly error?: undefined }
  | { readonly error: RankmillError; readonly result?: undefined }

export interface BatchSource {
  readonly name: string
  /** How much of the input lies before an offset, 0 to 1; undefined where its size is not known. */
  shareBefore(offset: number): number | undefined
  /** Changes with the content. */
  fingerprint(): Promise<string>
  /** The items after a mark, in order. @throws RankmillError `input_unreadable` */
  read(from: LineMark): AsyncIterable<BatchItem>
}

const SAMPLES = 32
const SAMPLE_BYTES = 65_536

/**
 * Of a file's size and of samples from all over it: a 20 GB file is not read twice for it.
 *
 * @throws RankmillError `input_unreadable`
 */
export async function fingerprintOfFile(path: string): Promise<string> {
  try {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      const hash = createHash('sha256').update(`${size}`)
      const buffer = Buffer.alloc(SAMPLE_BYTES)
      for (let i = 0; i < SAMPLES; i++) {
        const at = Math.floor((Math.max(0, size - SAMPLE_BYTES) * i) / (SAMPLES - 1))
        const { bytesRead } = await file.read(buffer, 0, SAMPLE_BYTES, at)
        hash.update(buffer.subarray(0, bytesRead))
      }
      return hash.digest('hex').slice(0, 32)
    } finally {
      await file.close()
    }
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** Requests from a JSONL file, compressed or not. */
export class FileSource implements BatchSource {
  readonly name: string
  readonly #size: number
  readonly #maxLineBytes: number
  /** Read of the file, and what that was decompressed: their ratio tells how large the whole will be. */
  #fileBytes = 0
  #contentBytes = 0

  /** @throws RankmillError `input_unreadable` */
  static async open(path: string, maxLineBytes: number): Promise<FileSource> {
    try {
      const { size } = await stat(path)
      await (await open(path, 'r')).close()
      return new FileSource(path, size, maxLineBytes)
    } catch (error) {
      throw unreadable(path, error)
    }
  }

  private constructor(path: string, size: number, maxLineBytes: number) {
    this.name = path
    this.#size = size
    this.#maxLineBytes = maxLineBytes
  }

  shareBefore(offset: number): number {
    if (this.#size === 0) return 1
    const share = this.#fileBytes / this.#size
    return this.#contentBytes === 0 ? 0 : Math.min(1, (share * offset) / this.#contentBytes)
  }

  fingerprint(): Promise<string> {
    return fingerprintOfFile(this.name)
  }

  async *read(from: LineMark): AsyncGenerator<BatchItem> {
    const compression = compressionOf(this.name)
    const start = compression === 'none' ? from.offset : 0
    const stream = createReadStream(this.name, { start, highWaterMark: 1 << 18 })
    this.#fileBytes = start
    this.#contentBytes = start
    const content = counted(
      decompressed(
        counted(stream, (bytes) => (this.#fileBytes += bytes)),
        compression,
      ),
      (bytes) => {
        this.#contentBytes += bytes
      },
    )
    try {
      const rest = compression === 'none' ? content : skipping(content, from.offset)
      yield* items(readLines(rest, this.#maxLineBytes, from), this.#maxLineBytes)
    } catch (error) {
      throw unreadable(this.name, error)
    } finally {
      stream.destroy()
    }
  }
}

/** Requests from a stream that can be read once: known again by its beginning, and skipped as far as it was done. */
export class StreamSource implements BatchSource {
  readonly name: string
  readonly #head: Buffer
  readonly #rest: AsyncIterator<Buffer>
  readonly #maxLineBytes: number

  /** @throws RankmillError `input_unreadable` */
  static async open(stream: AsyncIterable<Buffer>, name: string, maxLineBytes: number): Promise<StreamSource> {
    const chunks = stream[Symbol.asyncIterator]()
    const head: Buffer[] = []
    let length = 0
    try {
      while (length < SAMPLE_BYTES) {
        const next = await chunks.next()
        if (next.done) break
        head.push(next.value)
        length += next.value.length
      }
    } catch (error) {
      throw unreadable(name, error)
    }
    return new StreamSource(name, Buffer.concat(head), chunks, maxLineBytes)
  }

  private constructor(name: string, head: Buffer, rest: AsyncIterator<Buffer>, maxLineBytes: number) {
    this.name = name
    this.#head = head
    this.#rest = rest
    this.#maxLineBytes = maxLineBytes
  }

  shareBefore(): undefined {
    return undefined
  }

  async fingerprint(): Promise<string> {
    return createHash('sha256').update(this.#head.subarray(0, SAMPLE_BYTES)).digest('hex').slice(0, 32)
  }

  async *read(from: LineMark): AsyncGenerator<BatchItem> {
    try {
      const content = skipping(this.#content(), from.offset)
      yield* items(readLines(content, this.#maxLineBytes, from), this.#maxLineBytes)
    } catch (error) {
      throw unreadable(this.name, error)
    }
  }

  async *#content(): AsyncGenerator<Buffer> {
    if (this.#head.length > 0) yield this.#head
    for (let next = await this.#rest.next(); !next.done; next = await this.#rest.next()) {
      yield next.value
    }
  }
}

async function* items(lines: AsyncIterable<Parameters<typeof parseBatchLine>[0]>, maxLineBytes: number) {
  for await (const line of lines) {
    const item = parseBatchLine(line, maxLineBytes)
    if (item) yield item
  }
}

async function* counted(chunks: AsyncIterable<Buffer>, count: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    count(chunk.length)
    yield chunk
  }
}

async function* skipping(chunks: AsyncIterable<Buffer>, bytes: number): AsyncGenerator<Buffer> {
  let left = bytes
  for await (const chunk of chunks) {
    if (left >= chunk.length) left -= chunk.length
    else {
      yield left === 0 ? chunk : chunk.subarray(left)
      left = 0
    }
  }
}

function unreadable(name: string, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const message = `${name}: ${error instanceof Error ? error.message : String(error)}`
  return new RankmillError('input_unreadable', message, { param: name }, { cause: error })
}
