/** Lines of text from files, and the errors that name a place in them. */
import { isUtf8 } from 'node:buffer'
import { createReadStream } from 'node:fs'
import { RankmillError } from '../../shared/errors.js'
import { compressionOf, decompressed } from './compression.js'
import { readLines } from './line-reader.js'

/** A path (`.gz` and `.zst` are decompressed, `-` is standard input), or bytes with the name that errors give them. */
export type Source = string | { readonly name: string; readonly chunks: AsyncIterable<Uint8Array> }

export interface Line {
  /** From 1, blank lines counted. */
  readonly number: number
  /** Without its end (LF or CRLF) and without the byte order mark of the file. */
  readonly text: string
}

/** A longer line is a file of another kind: it would have to be held in memory whole. */
const MAX_LINE_BYTES = 64 * 2 ** 20
const STANDARD = '-'

export function nameOf(source: Source): string {
  if (typeof source !== 'string') return source.name
  return source === STANDARD ? 'standard input' : source
}

/**
 * Reads UTF-8 text line by line; blank lines are left out, and counted. Holds one line and one chunk in memory. Lines end
 * at LF alone: node:readline also cuts at U+2028 and U+2029, which JSON strings may hold as they are.
 *
 * @throws RankmillError `invalid_request` where the file cannot be read or decompressed, is not UTF-8, or has a line over
 *   the limit
 */
export async function* textLines(source: Source, maxLineBytes = MAX_LINE_BYTES): AsyncGenerator<Line> {
  for await (const { number, bytes } of readLines(contentOf(source), maxLineBytes)) {
    if (!bytes) throw lineError(source, number, `a line must have at most ${maxLineBytes} bytes`)
    if (!isUtf8(bytes)) throw lineError(source, number, 'must be UTF-8 text')
    const text = bytes.toString()
    if (text.trim() !== '') yield { number, text }
  }
}

async function* contentOf(source: Source): AsyncGenerator<Buffer> {
  if (typeof source !== 'string') {
    for await (const chunk of source.chunks) yield Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    return
  }
  const raw = source === STANDARD ? process.stdin : createReadStream(source)
  try {
    yield* decompressed(raw, compressionOf(source))
  } catch (error) {
    const name = nameOf(source)
    throw new RankmillError('invalid_request', `cannot read ${name}: ${(error as Error).message}`, { param: name })
  }
}

/** An error at a line of a file: `corpus.jsonl:7: text: must be a string, got 5`. */
export function lineError(
  source: Source,
  line: number,
  reason: string,
  at?: { readonly field: string; readonly value?: unknown },
): RankmillError {
  const place = `${nameOf(source)}:${line}`
  const got = at && 'value' in at ? `, got ${shown(at.value)}` : ''
  return new RankmillError('invalid_request', `${place}: ${at ? `${at.field}: ` : ''}${reason}${got}`, {
    param: at ? `${place}:${at.field}` : place,
  })
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
