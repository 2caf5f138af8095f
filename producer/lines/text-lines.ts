/** Lines of text from files, and the errors that name a place in them. */
import { isUtf8 } from 'node:buffer'
import { RankmillError } from '../../shared/errors.js'
import { openContent } from './content.js'
import { readLines } from './line-reader.js'
import { mistakenFormat } from './mistaken-format.js'
import type { RecordFormat } from './record-format.js'

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
 * @param content of the source, as `bytesOf` gives it
 * @throws RankmillError `invalid_request` where the file cannot be read or decompressed, is not UTF-8, or has a line over
 *   the limit
 */
export async function* textLines(
  source: Source,
  maxLineBytes = MAX_LINE_BYTES,
  content: AsyncIterable<Buffer> = bytesOf(source, 'text'),
): AsyncGenerator<Line> {
  for await (const { number, bytes } of readLines(content, maxLineBytes)) {
    if (!bytes) throw lineError(source, number, `a line must have at most ${maxLineBytes} bytes`)
    if (!isUtf8(bytes)) throw lineError(source, number, 'must be UTF-8 text')
    const text = bytes.toString()
    if (text.trim() !== '') yield { number, text }
  }
}

/**
 * Plain bytes.
 *
 * @param format, otherwise as for `mistakenFormat`
 * @throws RankmillError `invalid_request` where they cannot be read or decompressed, or begin as another format does
 */
export async function* bytesOf(
  source: Source,
  format: RecordFormat | 'text',
  otherwise?: string,
): AsyncGenerator<Buffer> {
  const name = nameOf(source)
  const refusal = (message: string) => new RankmillError('invalid_request', message, { param: name })
  try {
    const content = await (typeof source === 'string' ? openContent(source) : openContent(source.chunks, name))
    const mistake = mistakenFormat(name, format, await content.head(), otherwise)
    if (mistake !== undefined) throw refusal(`${name}: ${mistake}`)
    yield* content.read(0)
  } catch (error) {
    throw error instanceof RankmillError ? error : refusal(`cannot read ${name}: ${(error as Error).message}`)
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
