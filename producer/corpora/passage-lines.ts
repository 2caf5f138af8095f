/** Passages from JSON lines: BEIR's `{_id, title, text}`, or `{id, text}`. */
import { RankmillError } from '../../shared/errors.js'
import { MAX_ID_CHARACTERS } from '../../shared/request.js'
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
  for await (const line of textLines(file, maxLineBytes)) {
    const source = `${name}:${line.number}`
    yield { ...checkPassage(parsePassage(line.text, source), source, limits), source }
  }
}

/** Ids to delete, one a line; a line of JSON may give it as a passage does. */
export async function* idsOf(file: string, limits: PassageLimits): AsyncGenerator<string> {
  const maxLineBytes = limits.maxDocumentBytes * LINE_FACTOR + LINE_REST
  const name = nameOf(file)
  for await (const line of textLines(file, maxLineBytes)) {
    const source = `${name}:${line.number}`
    const id = line.text.startsWith('{') ? idOf(parseObject(line.text, source), source) : line.text
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

function parsePassage(line: string, source: string): Passage {
  const object = parseObject(line, source)
  const id = idOf(object, source)
  const { title, text } = object
  if (typeof text !== 'string') throw refusal(source, 'text', `must be a text${got(text)}`)
  if (title !== undefined && title !== null && typeof title !== 'string') {
    throw refusal(source, 'title', `must be a text${got(title)}`)
  }
  // As BEIR's own readers put the two together.
  return { id, text: title ? `${title} ${text}`.trim() : text }
}

function parseObject(line: string, source: string): Record<string, unknown> {
  let parsed: unknown
  try {
    parsed = JSON.parse(line)
  } catch (error) {
    throw new RankmillError('invalid_request', `${source}: not JSON: ${(error as Error).message}`, { param: source })
  }
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as Record<string, unknown>
  throw new RankmillError('invalid_request', `${source}: must be an object {"id": "…", "text": "…"}`, { param: source })
}

function idOf({ _id, id }: Record<string, unknown>, source: string): string {
  if (_id !== undefined && id !== undefined && _id !== id) {
    throw refusal(source, 'id', `differs from _id: ${JSON.stringify(id)} and ${JSON.stringify(_id)}`)
  }
  const found = _id ?? id
  if (found === undefined || found === null) throw refusal(source, 'id', 'is missing (_id in BEIR’s files)')
  if (typeof found !== 'string') throw refusal(source, 'id', `must be a text${got(found)}`)
  return found
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
