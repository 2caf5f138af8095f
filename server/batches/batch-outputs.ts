/** A run's output, as the two files that a batch has: answers, and errors. */
import { createReadStream } from 'node:fs'
import { readLines } from '../../producer/lines/line-reader.js'

const MAX_LINE_BYTES = Number.MAX_SAFE_INTEGER
const NEWLINE = Buffer.from('\n')
/** How a line begins that holds no answer, after its id and custom_id. */
const NO_ANSWER = /^\{"id":"line-\d+","custom_id":(?:null|"(?:[^"\\]|\\.)*"),"response":null,/
/** Longer than any such beginning: a custom_id has 512 characters, each six at most when escaped. */
const HEAD_BYTES = 8192
const CHUNK_BYTES = 1 << 18

/** The lines of one kind, in larger pieces. */
export async function* linesOf(path: string, kind: 'answers' | 'errors'): AsyncGenerator<Buffer> {
  let pending: Buffer[] = []
  let length = 0
  for await (const { bytes } of readLines(createReadStream(path, { highWaterMark: CHUNK_BYTES }), MAX_LINE_BYTES)) {
    if (!bytes || bytes.length === 0) continue
    const isError = NO_ANSWER.test(bytes.subarray(0, HEAD_BYTES).toString())
    if (isError !== (kind === 'errors')) continue
    pending.push(bytes, NEWLINE)
    length += bytes.length + 1
    if (length < CHUNK_BYTES) continue
    yield Buffer.concat(pending)
    pending = []
    length = 0
  }
  if (length > 0) yield Buffer.concat(pending)
}
