/** Passages from records: BEIR's `{_id, title, text}`, or `{id, text}`, as JSON lines, CSV, TSV or Parquet. */
import { RankmillError } from '../../shared/errors.js'
import { MAX_ID_CHARACTERS } from '../../shared/protocol/field-schemas.js'
import { idOf, passageTextOf, recordOf } from '../lines/beir-records.js'
import { recordsOf } from '../lines/records.js'
import { nameOf, textLines } from '../lines/text-lines.js'

export interface Passage {
  readonly id: string
  readonly text: string
  /** For messages: `corpus.jsonl:17`. */
  readonly source?: string
}

export interface PassageLimits {
  /** UTF-8 length of one text. */
  readonly maxDocumentBytes: number
}

/** JSON escapes a byte as six at most; beside the text there may be other fields. */
const LINE_FACTOR = 6
const LINE_REST = 1_000_000

/**
 * @param file "-": standard input
 * @throws RankmillError `invalid_request` or `document_too_long`, naming file, line and field
 */
export async function* passagesOf(file: string, limits: PassageLimits): AsyncGenerator<Passage> {
  const maxLineBytes = limits.maxDocumentBytes * LINE_FACTOR + LINE_REST
  const name = nameOf(file)
  for await (const record of recordsOf(file, maxLineBytes)) {
    const source = `${name}:${record.number}`
    const passage = {
      id: idOf(file, record, record.fields).value,
      text: passageTextOf(file, record, record.fields),
    }
    yield { ...checkPassage(passage, source, limits), source }
  }
}

/** Ids to delete, one a line; a line of JSON may give it as a passage does. */
export async function* idsOf(file: string, limits: PassageLimits): AsyncGenerator<string> {
  const maxLineBytes = limits.maxDocumentBytes * LINE_FACTOR + LINE_REST
  const name = nameOf(file)
  for await (const line of textLines(file, maxLineBytes)) {
    const source = `${name}:${line.number}`
    const id = line.text.startsWith('{') ? idOf(file, line, recordOf(file, line)).value : line.text
    checkId(id, source)
    yield id
  }
}

/** @throws RankmillError `invalid_request` or `document_too_long` */
export function checkPassage(passage: Passage, source: string, limits: PassageLimits): Passage {
  const { id, text } = passage ?? {}
  checkId(id, source)
  if (typeof text !== 'string') throw refusal(source, 'text', `must be a text${got(text)}`)
  if (!text.isWellFormed()) throw refusal(source, 'text', 'holds a lone surrogate, which is not valid Unicode text')
  if (text.length * 3 > limits.maxDocumentBytes) {
    const bytes = Buffer.byteLength(text)
    if (bytes > limits.maxDocumentBytes) {
      const message = `${source}: text: must have at most ${limits.maxDocumentBytes} bytes, got ${bytes}`
      throw new RankmillError('document_too_long', message, { param: source })
    }
  }
  return passage
}

function checkId(id: unknown, source: string): void {
  if (typeof id !== 'string') throw refusal(source, 'id', `must be a text${got(id)}`)
  if (id === '') throw refusal(source, 'id', 'must not be empty')
  if (id.length > MAX_ID_CHARACTERS) {
    throw refusal(source, 'id', `must have at most ${MAX_ID_CHARACTERS} characters, got ${id.length}`)
  }
  if (!id.isWellFormed()) throw refusal(source, 'id', 'holds a lone surrogate, which is not valid Unicode text')
}

function got(value: unknown): string {
  const shown = JSON.stringify(value) ?? 'nothing'
  return `, got ${shown.length > 60 ? `${shown.slice(0, 57)}...` : shown}`
}

function refusal(source: string, field: string, reason: string): RankmillError {
  return new RankmillError('invalid_request', `${source}: ${field}: ${reason}`, { param: source })
}

/** The error for an id that came before in the same file. */
export function duplicateId(id: string, source = 'passages'): RankmillError {
  return refusal(source, 'id', `${JSON.stringify(id)} was there before`)
}
