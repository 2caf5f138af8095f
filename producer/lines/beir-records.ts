/** Records of BEIR's JSONL files: `{"_id", "title", "text"}`, or `{"id", "text"}`. */
import { isSafeNumber, LosslessNumber, parse as parseLossless } from 'lossless-json'
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

/**
 * `_id` before `id`; integers of any size as they are written, since tables are often exported with them.
 *
 * @throws RankmillError `invalid_request` where there is none, or two that differ
 */
export function idOf(source: Source, line: Line, object: Readonly<Record<string, unknown>>): RecordId {
  const found = optionalIdOf(source, line, object)
  if (found) return found
  const field = hasField(object, 'id') ? 'id' : '_id'
  throw lineError(source, line.number, 'must be a string that is not empty', { field, value: object[field] })
}

/** As `idOf`; undefined where the record has no id, or null. */
export function optionalIdOf(
  source: Source,
  line: Line,
  object: Readonly<Record<string, unknown>>,
): RecordId | undefined {
  const ids = (['_id', 'id'] as const).flatMap((field) => {
    const value = hasField(object, field) ? object[field] : undefined
    return value === undefined || value === null ? [] : { field, value: idText(source, line, field, value) }
  })
  const [first, second] = ids
  if (first && second && first.value !== second.value) {
    const reason = `must be the same as _id, ${JSON.stringify(first.value)}`
    throw lineError(source, line.number, reason, { field: 'id', value: object['id'] })
  }
  return first
}

function idText(source: Source, line: Line, field: '_id' | 'id', value: unknown): string {
  if (typeof value === 'string' && value !== '' && value.isWellFormed()) return value
  if (typeof value === 'bigint' || Number.isSafeInteger(value)) return String(value)
  const digits = typeof value === 'number' ? digitsOf(line.text, field) : undefined
  if (digits !== undefined) return digits
  throw lineError(source, line.number, 'must be a string that is not empty', { field, value })
}

/** Of an integer that is too large for JSON.parse, as the line has it. */
function digitsOf(text: string, field: string): string | undefined {
  const numbers = (digits: string) => (isSafeNumber(digits) ? Number(digits) : new LosslessNumber(digits))
  const value = (parseLossless(text, undefined, numbers) as Record<string, unknown>)[field]
  return value instanceof LosslessNumber && /^-?\d+$/.test(value.value) ? value.value : undefined
}

/** Own fields only: `__proto__` and `constructor` are names like any other. */
function hasField(object: Readonly<Record<string, unknown>>, field: string): boolean {
  return Object.hasOwn(object, field)
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
