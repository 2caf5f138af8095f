/** Records of BEIR's JSONL files: `{"_id", "title", "text"}`, or `{"id", "text"}`. */
import { type Line, lineError, type Source } from './text-lines.js'

/** The JSON object of a line. @throws RankmillError `invalid_request` */
export function recordOf(source: Source, { number, text }: Line): Readonly<Record<string, unknown>> {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw lineError(source, number, `must be JSON: ${(error as Error).message}`)
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw lineError(source, number, 'must be a JSON object', { field: 'line', value: parsed })
  return parsed as Record<string, unknown>
}

export interface RecordId {
  readonly field: '_id' | 'id'
  readonly value: string
}

/** `_id` before `id`; integers as they are written, since tables are often exported with them. */
export function idOf(source: Source, { number }: Line, object: Readonly<Record<string, unknown>>): RecordId {
  if ('_id' in object && 'id' in object && object['_id'] !== object['id']) {
    throw lineError(source, number, `must be the same as _id, ${JSON.stringify(object['_id'])}`, {
      field: 'id',
      value: object['id'],
    })
  }
  const field = '_id' in object || !('id' in object) ? '_id' : 'id'
  const id = object[field]
  if (typeof id === 'number' && Number.isSafeInteger(id)) return { field, value: String(id) }
  if (typeof id !== 'string' || id === '' || !id.isWellFormed())
    throw lineError(source, number, 'must be a string that is not empty', { field, value: id })
  return { field, value: id }
}

/** @throws RankmillError `invalid_request` where the field is no string */
export function stringOf(
  source: Source,
  { number }: Line,
  object: Readonly<Record<string, unknown>>,
  field: 'title' | 'text',
): string {
  const value = object[field]
  if (typeof value !== 'string') throw lineError(source, number, 'must be a string', { field, value })
  return value
}

/** A passage's text: title and text with one space between. */
export function passageTextOf(source: Source, line: Line, object: Readonly<Record<string, unknown>>): string {
  const text = stringOf(source, line, object, 'text')
  const hasTitle = object['title'] !== undefined && object['title'] !== null
  const title = hasTitle ? stringOf(source, line, object, 'title') : ''
  return title === '' ? text : `${title} ${text}`
}
