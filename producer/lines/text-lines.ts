/** Lines of text from files, and the errors that name a place in them. */
import { isUtf8 } from 'node:buffer'
import { createReadStream } from 'node:fs'
import { RankmillError } from '../../shared/errors.js'
import { compressionOf, decompressed } from './compression.js'
import { readLines } from './line-reader.js'
import { storedFile } from './stored-file.js'

/** A path (`.gz` and `.zst` are decompressed, `-` is standard input), or bytes with the name that errors give them. */
export type Source = string | { readonly name: string; readonly chunks: AsyncIterable<Uint8Array> }

/** One file, or the parts of one after another. */
export type Sources = Source | readonly Source[]

export interface Line {
  /** From 1, blank lines counted. */
  readonly number: number
  /** Without its end (LF or CRLF) and without a byte order mark before it. */
  readonly text: string
}

/** A longer line is a file of another kind: it would have to be held in memory whole. */
export const MAX_LINE_BYTES = 64 * 2 ** 20
const STANDARD = '-'

export function nameOf(source: Source): string {
  if (typeof source !== 'string') return source.name
  return source === STANDARD ? 'standard input' : source
}

export function partsOf(sources: Sources): readonly Source[] {
  return Array.isArray(sources) ? sources : [sources as Source]
}

/** For messages: the first name, and how many more there are. */
export function nameOfAll(sources: Sources): string {
  const [first, ...more] = partsOf(sources)
  const name = first === undefined ? 'nothing' : nameOf(first)
  return more.length > 0 ? `${name} and ${more.length} more` : name
}

/**
 * Reads UTF-8 text line by line; blank lines are left out, and counted. Holds one line and one chunk in memory. Lines end
 * at LF alone: node:readline also cuts at U+2028 and U+2029, which JSON strings may hold as they are.
 *
 * @throws RankmillError `invalid_request` where the file cannot be read or decompressed, is not UTF-8, or has a line over
 *   the limit
 */
export async function* textLines(source: Source, maxLineBytes = MAX_LINE_BYTES): AsyncGenerator<Line> {
  for await (const { number, bytes } of readLines(bytesOf(source), maxLineBytes)) {
    if (!bytes) throw lineError(source, number, `a line must have at most ${maxLineBytes} bytes`)
    if (!isUtf8(bytes)) throw lineError(source, number, 'must be UTF-8 text')
    const text = bytes.toString()
    if (text.trim() !== '') yield { number, text }
  }
}

/** Plain bytes. @throws RankmillError `invalid_request` where they cannot be read or decompressed */
export async function* bytesOf(source: Source): AsyncGenerator<Buffer> {
  if (typeof source !== 'string') {
    for await (const chunk of source.chunks) yield Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    return
  }
  try {
    const stored = source.startsWith('s3://') ? await storedFile(source) : undefined
    const raw = stored ? stored.read(0) : source === STANDARD ? process.stdin : createReadStream(source)
    yield* decompressed(raw, compressionOf(source))
  } catch (error) {
    const name = nameOf(source)
    throw new RankmillError('invalid_request', `cannot read ${name}: ${(error as Error).message}`, { param: name })
  }
}

/** The beginning of a text that has at most so many bytes in UTF-8, whole characters. */
export function cutToBytes(text: string, maxBytes: number): string {
  if (text.length * 3 <= maxBytes) return text
  const bytes = Buffer.from(text)
  if (bytes.length <= maxBytes) return text
  let end = maxBytes
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return bytes.toString('utf8', 0, end)
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
