/** The output of a run: whole lines at its end, or, compressed, whole frames. */
import { constants } from 'node:fs'
import { copyFile, type FileHandle, open, rename, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type Compression, compressedFrame } from '../lines/compression.js'
import { fileOf, gone, idOf, type OutputRecord, outputChanged } from './output-check.js'
import type { OutputDigest } from './output-digest.js'
import { syncFolder } from './run-folder.js'
import { codeOf, unwritable } from './unwritable.js'

export interface OutputFile {
  /** Bytes that the file has. */
  readonly length: number
  /** Lines that were written, compressed or not. */
  readonly lines: number
  readonly isCompressed: boolean
  /** @throws RankmillError `output_unwritable`, the file is then as long as before; `output_changed` */
  append(content: Buffer): Promise<void>
  /** Makes what was appended last through a power cut. */
  sync(): Promise<void>
  close(): Promise<void>
}

const NEWLINE = 0x0a

export class OutputOnDisk implements OutputFile {
  readonly #path: string
  readonly #file: FileHandle
  readonly #compression: Compression
  readonly #digest: OutputDigest
  readonly #id: string
  #lines: number

  /**
   * Opens an output to write on.
   *
   * @param kept what it keeps; whatever comes after is cut off
   * @param claim.check throws where the output is another's: looked at when the file is open and nothing is changed, since a
   *   runner may sleep at any point, and the next one goes on in another file
   * @param claim.copy where somebody else may still have the file open: the path of a copy that takes its name
   */
  static async open(
    path: string,
    compression: Compression,
    { digest, lines }: { digest: OutputDigest; lines: number },
    { check, copy }: { readonly check: () => Promise<void>; readonly copy?: string | undefined },
  ): Promise<OutputOnDisk> {
    const kept = digest.bytes
    let file: FileHandle | undefined
    try {
      if (copy !== undefined) await replaceByCopy(path, copy, kept > 0)
      file = await open(path, kept > 0 ? 'r+' : constants.O_RDWR | constants.O_CREAT)
      const found = await file.stat({ bigint: true })
      if (found.size < kept) throw outputChanged(path, `has ${found.size} bytes, of ${kept} that the run wrote`)
      await check()
      await file.truncate(kept)
      await file.sync()
      await syncFolder(dirname(path))
      return new OutputOnDisk(path, file, compression, digest, lines, idOf(found))
    } catch (error) {
      await file?.close()
      if (kept > 0 && codeOf(error) === 'ENOENT') throw gone(path, kept)
      throw unwritable(path, error)
    }
  }

  private constructor(
    path: string,
    file: FileHandle,
    compression: Compression,
    digest: OutputDigest,
    lines: number,
    id: string,
  ) {
    this.#path = path
    this.#file = file
    this.#compression = compression
    this.#digest = digest
    this.#lines = lines
    this.#id = id
  }

  get length(): number {
    return this.#digest.bytes
  }

  get lines(): number {
    return this.#lines
  }

  get isCompressed(): boolean {
    return this.#compression !== 'none'
  }

  async append(content: Buffer): Promise<void> {
    await this.check()
    const length = this.#digest.bytes
    let bytes: Buffer
    try {
      bytes = await compressedFrame(content, this.#compression)
      let written = 0
      while (written < bytes.length) {
        const left = bytes.length - written
        written += (await this.#file.write(bytes, written, left, length + written)).bytesWritten
      }
    } catch (error) {
      await this.#file.truncate(length).catch(() => undefined)
      throw unwritable(this.#path, error)
    }
    this.#digest.update(bytes)
    this.#lines += linesIn(content)
  }

  /**
   * Whether the file at the path is the one that this run writes, with nothing added and nothing taken away.
   *
   * @throws RankmillError `output_changed`
   */
  async check(): Promise<void> {
    const found = await this.checkPlace()
    if (found.size === BigInt(this.length)) return
    const message = `has ${found.size} bytes, and the run wrote ${this.length}: something else writes it as well`
    throw outputChanged(this.#path, message)
  }

  /** As `check`, but of the file alone: its size changes while something is appended. */
  async checkPlace(): Promise<{ size: bigint }> {
    const found = await stat(this.#path, { bigint: true }).catch((error) => {
      throw codeOf(error) === 'ENOENT'
        ? outputChanged(this.#path, 'was removed while the run wrote it')
        : unwritable(this.#path, error)
    })
    if (idOf(found) !== this.#id) throw outputChanged(this.#path, 'was replaced by another file while the run wrote it')
    return found
  }

  async sync(): Promise<void> {
    await this.#file.datasync().catch((error) => {
      throw unwritable(this.#path, error)
    })
  }

  /** To be taken after `sync`. */
  async record(): Promise<OutputRecord> {
    const found = await this.#file.stat({ bigint: true })
    return { ...this.#digest.state(), lines: this.#lines, file: fileOf(found) }
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** Standard output: nothing to go on with. */
export class OutputStream implements OutputFile {
  readonly isCompressed = false
  readonly #stream: NodeJS.WritableStream
  length = 0
  lines = 0

  constructor(stream: NodeJS.WritableStream) {
    this.#stream = stream
  }

  async append(content: Buffer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#stream.write(content, (error) => (error ? reject(unwritable('standard output', error)) : resolve()))
    })
    this.length += content.length
    this.lines += linesIn(content)
  }

  async sync(): Promise<void> {
    // A pipe has nothing to sync.
  }

  async close(): Promise<void> {
    // Standard output closes with the process.
  }
}

/** @param copy where the new file is made: beside the old one, or in the run's folder */
async function replaceByCopy(path: string, copy: string, content: boolean): Promise<void> {
  if (content) await copyFile(path, copy, constants.COPYFILE_FICLONE)
  const file = await open(copy, content ? 'r+' : 'w')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(copy, path)
}

function linesIn(content: Buffer): number {
  let lines = 0
  for (let at = content.indexOf(NEWLINE); at !== -1; at = content.indexOf(NEWLINE, at + 1)) lines++
  return lines
}
