/**
 * Lines of a file of any size, in bounded memory, each with its number. Ends of lines may be LF or CRLF; a byte order mark
 * is skipped; bytes that are not UTF-8 are refused with their line. Files named .gz and .zst are decompressed.
 */
import { createReadStream } from 'node:fs'
import { pipeline, Transform } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { Decompress } from 'fzstd'
import { RankmillError } from '../../shared/errors.js'

export interface SourceLine {
  /** From 1. */
  readonly number: number
  readonly text: string
}

export interface LineLimits {
  readonly maxLineBytes: number
}

const LF = 0x0a
const CR = 0x0d

/**
 * Lines of a file, or of standard input where it is "-"; blank ones are left out, and counted.
 *
 * @throws RankmillError `invalid_request` where the file cannot be read or decompressed, a line is too long, or not UTF-8
 */
export async function* linesOf(file: string, limits: LineLimits): AsyncGenerator<SourceLine> {
  const name = file === '-' ? 'standard input' : file
  let lastRead = 0
  try {
    for await (const line of splitLines(bytesOf(file), name, limits)) {
      lastRead = line.number
      if (line.text.trim() !== '') yield line
    }
  } catch (error) {
    if (error instanceof RankmillError) throw error
    const after = lastRead > 0 ? ` after line ${lastRead}` : ''
    throw new RankmillError('invalid_request', `cannot read ${name}${after}: ${(error as Error).message}`, {
      param: name,
    })
  }
}

function bytesOf(file: string): AsyncIterable<Buffer> {
  const raw = file === '-' ? process.stdin : createReadStream(file)
  if (file.endsWith('.gz')) return pipeline(raw, createGunzip(), () => undefined)
  if (file.endsWith('.zst')) return pipeline(raw, unzstd(), () => undefined)
  return raw
}

function unzstd(): Transform {
  let begun = false
  const inner = new Decompress()
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      begun = true
      inner.ondata = (data) => this.push(Buffer.from(data))
      attempt(() => inner.push(chunk), done)
    },
    flush(done) {
      if (!begun) return done(new Error('it is empty'))
      inner.ondata = (data) => this.push(Buffer.from(data))
      attempt(() => inner.push(new Uint8Array(0), true), done)
    },
  })
}

function attempt(push: () => unknown, done: (error?: Error) => void): void {
  try {
    push()
    done()
  } catch (error) {
    done(new Error(`not Zstandard data: ${(error as Error).message}`))
  }
}

async function* splitLines(
  chunks: AsyncIterable<Buffer>,
  name: string,
  { maxLineBytes }: LineLimits,
): AsyncGenerator<SourceLine> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let number = 0
  let [begun, begunBytes]: [Buffer[], number] = [[], 0]
  const take = (end: Buffer): SourceLine => {
    let bytes = begun.length > 0 ? Buffer.concat([...begun, end]) : end
    ;[begun, begunBytes] = [[], 0]
    number++
    if (number === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) bytes = bytes.subarray(3)
    if (bytes.at(-1) === CR) bytes = bytes.subarray(0, -1)
    if (bytes.length > maxLineBytes) throw tooLong(name, number, maxLineBytes)
    try {
      return { number, text: decoder.decode(bytes) }
    } catch {
      throw new RankmillError('invalid_request', `${name}:${number}: is not UTF-8`, { param: `${name}:${number}` })
    }
  }
  for await (const chunk of chunks) {
    let from = 0
    for (let at = chunk.indexOf(LF); at !== -1; at = chunk.indexOf(LF, from)) {
      yield take(chunk.subarray(from, at))
      from = at + 1
    }
    if (from === chunk.length) continue
    begun.push(chunk.subarray(from))
    begunBytes += chunk.length - from
    // Before more of it is taken into memory.
    if (begunBytes > maxLineBytes + 4) throw tooLong(name, number + 1, maxLineBytes)
  }
  if (begunBytes > 0) yield take(Buffer.alloc(0))
}

function tooLong(name: string, number: number, limit: number): RankmillError {
  const message = `${name}:${number}: a line must have at most ${limit} bytes`
  return new RankmillError('invalid_request', message, { param: `${name}:${number}` })
}
