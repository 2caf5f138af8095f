/** Lines of the text files that retrieval research exchanges, and the errors that name a place in them. */
import { createReadStream } from 'node:fs'
import { RankmillError } from '../../shared/errors.js'

/** A file's path, or bytes from elsewhere with the name that errors give them. */
export type Source = string | { readonly name: string; readonly chunks: AsyncIterable<Uint8Array> }

export interface Line {
  /** From 1, blank lines counted. */
  readonly number: number
  /** Without its end (LF or CRLF) and without the byte order mark of the file. */
  readonly text: string
}

/** A longer line is a file of another kind: it would have to be held in memory whole. */
const MAX_LINE_BYTES = 64 * 2 ** 20
const LINE_FEED = 0x0a
const BYTE_ORDER_MARK = '\ufeff'

export function nameOf(source: Source): string {
  return typeof source === 'string' ? source : source.name
}

/**
 * Reads a UTF-8 file line by line; blank lines are left out. Holds one line and one chunk in memory. Lines end at LF
 * alone: node:readline also cuts at U+2028 and U+2029, which JSON strings may hold as they are.
 *
 * @throws RankmillError `invalid_request` where the file cannot be read, is not UTF-8, or has a line over the limit
 */
export async function* readLines(source: Source, maxLineBytes = MAX_LINE_BYTES): AsyncGenerator<Line> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let number = 0
  let pieces: Uint8Array[] = []
  let bytes = 0
  const add = (piece: Uint8Array) => {
    bytes += piece.length
    if (bytes > maxLineBytes) throw lineError(source, number + 1, `a line must have at most ${maxLineBytes} bytes`)
    pieces.push(piece)
  }
  /** The line that is complete now, null where it is blank. */
  const take = (): Line | null => {
    number++
    const whole = pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces)
    pieces = []
    bytes = 0
    let text: string
    try {
      text = decoder.decode(whole)
    } catch {
      throw lineError(source, number, 'must be UTF-8 text')
    }
    if (number === 1 && text.startsWith(BYTE_ORDER_MARK)) text = text.slice(1)
    if (text.endsWith('\r')) text = text.slice(0, -1)
    return text.trim() === '' ? null : { number, text }
  }
  for await (const chunk of chunksOf(source)) {
    let start = 0
    for (let end = chunk.indexOf(LINE_FEED); end !== -1; end = chunk.indexOf(LINE_FEED, start)) {
      add(chunk.subarray(start, end))
      start = end + 1
      const line = take()
      if (line) yield line
    }
    if (start < chunk.length) add(chunk.subarray(start))
  }
  const last = pieces.length > 0 ? take() : null
  if (last) yield last
}

async function* chunksOf(source: Source): AsyncGenerator<Uint8Array> {
  if (typeof source !== 'string') {
    yield* source.chunks
    return
  }
  try {
    yield* createReadStream(source) as AsyncIterable<Uint8Array>
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw error
    throw new RankmillError('invalid_request', `cannot read ${source}: ${(error as Error).message}`, { param: source })
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
