/** The plain bytes of an input, decompressed by its name: of a file, or of what can be read once. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type Compression, compressionOf, decompressed } from './compression.js'
import { HEAD_BYTES, type Head, headOf, mistakenCompression } from './mistaken-format.js'
import type { StoredBytes } from './stored-bytes.js'
import { storedFile } from './stored-file.js'

export interface Content {
  readonly name: string
  /** How much of the input lies before an offset, 0 to 1; undefined where its size is not known. */
  shareBefore(offset: number): number | undefined
  /** Changes with the content, and need not read all of it. */
  fingerprint(): Promise<string>
  /** Its beginning; what is read afterwards begins with it, too. @throws Error where it is not compressed as its name says */
  head(): Promise<Head>
  /**
   * Bytes from an offset of the plain content on, up to and without `end`. Of a stream each byte is read once: what lies
   * before the offset is passed over, and an offset behind what was read before is an error.
   */
  read(offset: number, end?: number): AsyncIterable<Buffer>
}

const STANDARD = '-'

/**
 * @param input a path, `-` for standard input, or a stream of plain bytes
 * @param name of a stream
 * @throws Error of the system where it cannot be read
 */
export async function openContent(
  input: string | AsyncIterable<Uint8Array>,
  name = 'standard input',
): Promise<Content> {
  if (typeof input !== 'string') return StreamContent.open(input, name)
  if (input === STANDARD) return StreamContent.open(process.stdin, name)
  const file = await storedFile(input)
  if (file) return new FileContent(file)
  return StreamContent.open(decompressed(createReadStream(input), compressionOf(input)), input)
}

class FileContent implements Content {
  readonly name: string
  readonly #file: StoredBytes
  readonly #compression: Compression
  /** Read of the file, and what that was decompressed: their ratio tells how large the whole will be. */
  #fileBytes = 0
  #contentBytes = 0

  constructor(file: StoredBytes) {
    this.name = file.name
    this.#file = file
    this.#compression = compressionOf(file.name)
  }

  shareBefore(offset: number): number {
    if (this.#file.size === 0) return 1
    if (this.#compression === 'none') return Math.min(1, offset / this.#file.size)
    const share = this.#fileBytes / this.#file.size
    return this.#contentBytes === 0 ? 0 : Math.min(1, (share * offset) / this.#contentBytes)
  }

  fingerprint(): Promise<string> {
    return this.#file.fingerprint()
  }

  async head(): Promise<Head> {
    const stored = await headOf(this.#file.read(0, HEAD_BYTES + 1))
    if (this.#compression === 'none') return stored
    const mistake = mistakenCompression(this.name, stored)
    if (mistake !== undefined) throw new Error(mistake)
    return headOf(this.read(0))
  }

  read(offset: number, end?: number): AsyncIterable<Buffer> {
    if (this.#compression === 'none') return this.#file.read(offset, end)
    this.#fileBytes = 0
    this.#contentBytes = 0
    const content = decompressed(
      counted(this.#file.read(0), (bytes) => (this.#fileBytes += bytes)),
      this.#compression,
    )
    return new Once(counted(content, (bytes) => (this.#contentBytes += bytes))).read(offset, end)
  }
}

/** Known again by its beginning. */
class StreamContent implements Content {
  readonly name: string
  readonly #head: Head
  readonly #bytes: Once

  static async open(stream: AsyncIterable<Uint8Array>, name: string): Promise<StreamContent> {
    const chunks = stream[Symbol.asyncIterator]()
    const head: Uint8Array[] = []
    let length = 0
    while (length < HEAD_BYTES) {
      const next = await chunks.next()
      if (next.done) return new StreamContent(name, Buffer.concat(head), chunks, true)
      head.push(next.value)
      length += next.value.length
    }
    return new StreamContent(name, Buffer.concat(head), chunks, false)
  }

  private constructor(name: string, begun: Buffer, rest: AsyncIterator<Uint8Array>, isWhole: boolean) {
    this.name = name
    this.#head = { bytes: begun.subarray(0, HEAD_BYTES), isWhole: isWhole && begun.length <= HEAD_BYTES }
    this.#bytes = new Once(joined(begun, rest))
  }

  shareBefore(): undefined {
    return undefined
  }

  async fingerprint(): Promise<string> {
    return createHash('sha256').update(this.#head.bytes).digest('hex').slice(0, 32)
  }

  async head(): Promise<Head> {
    return this.#head
  }

  read(offset: number, end?: number): AsyncIterable<Buffer> {
    return this.#bytes.read(offset, end)
  }
}

/** Bytes that go by once, and can be read part after part. */
class Once {
  readonly #chunks: AsyncIterator<Buffer>
  /** Of the content, in front of `#rest`. */
  #at = 0
  #rest: Buffer = Buffer.alloc(0)

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  async *read(offset: number, end = Number.POSITIVE_INFINITY): AsyncGenerator<Buffer> {
    if (offset < this.#at) throw new Error(`cannot be read again from byte ${offset} on: it is no file`)
    let isWhole = false
    try {
      while (this.#at < end && (await this.#fill())) {
        const upTo = this.#at < offset ? offset : end
        const taken = this.#rest.subarray(0, Math.min(this.#rest.length, upTo - this.#at))
        this.#rest = this.#rest.subarray(taken.length)
        this.#at += taken.length
        if (this.#at > offset) yield taken
      }
      isWhole = true
    } finally {
      // Left in the middle: nobody reads on.
      if (!isWhole || end === Number.POSITIVE_INFINITY) await this.#chunks.return?.()
    }
  }

  async #fill(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next()
      if (next.done) return false
      this.#rest = next.value
    }
    return true
  }
}

async function* joined(head: Buffer, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Buffer> {
  try {
    if (head.length > 0) yield head
    for (let next = await rest.next(); !next.done; next = await rest.next()) {
      const { buffer, byteOffset, byteLength } = next.value
      yield Buffer.from(buffer, byteOffset, byteLength)
    }
  } finally {
    await rest.return?.()
  }
}

async function* counted(chunks: AsyncIterable<Buffer>, count: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    count(chunk.length)
    yield chunk
  }
}
