/** Bytes to lines, in bounded memory, with the offset that reading can go on from after each. */
import type { DigestChain } from './digest-chain.js'

export interface Line {
  /** From 1. */
  readonly number: number
  /** Without its end; undefined where it was longer than the limit, and not kept. */
  readonly bytes: Buffer | undefined
  /** How many bytes the line had, its end not counted. */
  readonly length: number
  /** Bytes of the content up to and including the line's end. */
  readonly end: number
  /** Of the content up to and including the line's end; undefined where no chain was given. */
  readonly digest: string | undefined
}

/** Where reading begins: after so many lines and bytes. */
export interface LineMark {
  readonly line: number
  readonly offset: number
}

export const START: LineMark = { line: 0, offset: 0 }

const NEWLINE = 0x0a
const RETURN = 0x0d
const BOM = Buffer.from([0xef, 0xbb, 0xbf])
const END = Buffer.from([NEWLINE])

/**
 * Lines end with LF or CRLF; the last one may have no end. A byte order mark before a line is no part of it: files that
 * have one are joined with `cat`.
 *
 * @param bytes content from `from.offset` on
 * @param chain of the content before; each line becomes a link
 */
export async function* readLines(
  bytes: AsyncIterable<Buffer>,
  maxLineBytes: number,
  from: LineMark = START,
  chain?: DigestChain,
): AsyncGenerator<Line> {
  let number = from.line
  let offset = from.offset
  let parts: Buffer[] = []
  let length = 0

  const take = (newlineBytes: number): Line => {
    let line: Buffer | undefined
    if (length <= maxLineBytes) {
      line = parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts)
      if (line.at(-1) === RETURN) line = line.subarray(0, -1)
      if (line[0] === BOM[0] && line.subarray(0, 3).equals(BOM)) line = line.subarray(3)
    }
    offset += length + newlineBytes
    if (newlineBytes > 0) chain?.update(END)
    const taken = { number: ++number, bytes: line, length, end: offset, digest: chain?.link() }
    parts = []
    length = 0
    return taken
  }
  const keep = (part: Buffer) => {
    length += part.length
    chain?.update(part)
    if (length <= maxLineBytes) parts.push(part)
    else parts = []
  }

  for await (const chunk of bytes) {
    let start = 0
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      keep(chunk.subarray(start, end))
      yield take(1)
      start = end + 1
    }
    if (start < chunk.length) keep(chunk.subarray(start))
  }
  if (length > 0) yield take(0)
}
