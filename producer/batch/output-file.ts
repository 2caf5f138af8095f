/** The output of a run: whole lines at its end, or, compressed, whole frames. */
import { createReadStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { type Compression, compressedFrame, compressionOf } from '../lines/compression.js'
import { readLines } from '../lines/line-reader.js'
import { unwritable } from './run-folder.js'

export interface OutputFile {
  /** Bytes that the file has. */
  readonly length: number
  readonly isCompressed: boolean
  /** @throws RankmillError `output_unwritable`; the file is then as long as before */
  append(content: Buffer): Promise<void>
  /** Makes what was appended last through a power cut. */
  sync(): Promise<void>
  close(): Promise<void>
}

export class OutputOnDisk implements OutputFile {
  readonly #path: string
  readonly #file: FileHandle
  readonly #compression: Compression
  #length: number

  /**
   * Opens an output to go on with it.
   *
   * @param length bytes that are known to be whole
   * @param isWhole told each line after them: whether to keep it. From the first that is not, the file is cut; without
   *   it, or compressed, all that comes after is.
   */
  static async open(path: string, length: number, isWhole?: (line: string) => boolean): Promise<OutputOnDisk> {
    const compression = compressionOf(path)
    try {
      const file = await open(path, length === 0 && !isWhole ? 'w' : 'a+')
      await file.close()
      const kept = isWhole && compression === 'none' ? await wholeUntil(path, length, isWhole) : length
      const output = new OutputOnDisk(path, await open(path, 'r+'), compression, kept)
      await output.#file.truncate(kept)
      return output
    } catch (error) {
      throw unwritable(path, error)
    }
  }

  /** Opens an output that is complete, and stays as it is. */
  static async openComplete(path: string, length: number): Promise<OutputOnDisk> {
    try {
      return new OutputOnDisk(path, await open(path, 'r'), compressionOf(path), length)
    } catch (error) {
      throw unwritable(path, error)
    }
  }

  private constructor(path: string, file: FileHandle, compression: Compression, length: number) {
    this.#path = path
    this.#file = file
    this.#compression = compression
    this.#length = length
  }

  get length(): number {
    return this.#length
  }

  get isCompressed(): boolean {
    return this.#compression !== 'none'
  }

  async append(content: Buffer): Promise<void> {
    try {
      const bytes = await compressedFrame(content, this.#compression)
      let written = 0
      while (written < bytes.length) {
        const left = bytes.length - written
        written += (await this.#file.write(bytes, written, left, this.#length + written)).bytesWritten
      }
      this.#length += bytes.length
    } catch (error) {
      await this.#file.truncate(this.#length).catch(() => undefined)
      throw unwritable(this.#path, error)
    }
  }

  async sync(): Promise<void> {
    await this.#file.datasync().catch((error) => {
      throw unwritable(this.#path, error)
    })
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** Standard output: nothing to go on with. */
export class OutputStream implements OutputFile {
  readonly isCompressed = false
  readonly #stream: NodeJS.WritableStream
  #length = 0

  constructor(stream: NodeJS.WritableStream) {
    this.#stream = stream
  }

  get length(): number {
    return this.#length
  }

  async append(content: Buffer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#stream.write(content, (error) => (error ? reject(unwritable('standard output', error)) : resolve()))
    })
    this.#length += content.length
  }

  async sync(): Promise<void> {
    // A pipe has nothing to sync.
  }

  async close(): Promise<void> {
    // Standard output closes with the process.
  }
}

async function wholeUntil(path: string, from: number, isWhole: (line: string) => boolean): Promise<number> {
  let whole = from
  const stream = createReadStream(path, { start: from })
  for await (const line of readLines(stream, Number.MAX_SAFE_INTEGER, { line: 0, offset: from })) {
    const hasEnd = line.end - whole > line.length
    if (!hasEnd || !isWhole(line.bytes?.toString() ?? '')) break
    whole = line.end
  }
  stream.destroy()
  return whole
}
