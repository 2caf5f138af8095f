/** The lines of batch files: requests in the dialects that are understood, answers in the one that is written. */
import { isUtf8 } from 'node:buffer'
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { NO_CONTENT } from '../lines/digest-chain.js'
import type { Line } from '../lines/line-reader.js'
import { type Head, recordsIn } from '../lines/mistaken-format.js'
import type { BatchItem, BatchOutcome } from './batch-source.js'

/** `POST url`s that mean a rerank request; peers' versions differ in nothing that matters here. */
const URLS: ReadonlySet<string> = new Set(['/v1/rerank', '/v2/rerank', '/rerank'])

/**
 * One line as a request: OpenAI's batch shape (`custom_id`, `method`, `url`, `body`), Voyage's (`custom_id`, `body`), or a
 * bare request with an optional `id` or `custom_id`. A line that is none of them becomes an item with its error. Blank lines are none.
 *
 * @returns undefined for a blank line
 */
export function parseBatchLine(line: Line, maxLineBytes: number): BatchItem | undefined {
  const at = { line: line.number, end: line.end, digest: line.digest ?? NO_CONTENT, bytes: line.length }
  if (line.bytes === undefined) {
    const message = `line ${line.number}: must have at most ${maxLineBytes} bytes, got ${line.length}`
    return { ...at, customId: null, error: new RankmillError('invalid_line', message) }
  }
  if (!isUtf8(line.bytes)) {
    return { ...at, customId: null, error: new RankmillError('invalid_line', `line ${line.number}: not UTF-8`) }
  }
  const text = line.bytes.toString()
  if (text.trim() === '') return undefined
  let customId: string | null = null
  try {
    const value = parseObject(text, line.number)
    customId = customIdOf(value)
    return { ...at, customId, request: requestOf(value, line.number) }
  } catch (error) {
    return { ...at, customId, error: RankmillError.from(error) }
  }
}

/**
 * What is wrong with lines of which those at the beginning are texts, known by their fields, and no requests. For a person;
 * undefined where any of them may be a request.
 */
export function mistakenLines(head: Head): string | undefined {
  const records = recordsIn(head)
  const isRequest = (record: object) => ['query', 'documents', 'body', 'custom_id'].some((field) => field in record)
  if (records.length < 2 || !records.every((record) => 'text' in record && !isRequest(record))) return undefined
  return 'holds texts, not requests: `rankmill rerank --jsonl` ranks them for one query, `batch trec` takes them as --corpus or --queries'
}

function parseObject(text: string, number: number): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new RankmillError('invalid_line', `line ${number}: not JSON: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new RankmillError('invalid_line', `line ${number}: must be a JSON object`)
  }
  return value as Record<string, unknown>
}

function customIdOf(value: Record<string, unknown>): string | null {
  const name = 'custom_id' in value ? 'custom_id' : 'id'
  const id = value[name]
  if (id === undefined || id === null) return null
  if (typeof id !== 'string' || id === '' || id.length > 512) {
    const message = `${name}: must be a string of 1 to 512 characters, got ${JSON.stringify(id)?.slice(0, 60)}`
    throw new RankmillError('invalid_request', message, { param: name })
  }
  return id
}

function requestOf(value: Record<string, unknown>, number: number): RerankInput {
  if (!('body' in value)) {
    if ('custom_id' in value && !('query' in value)) {
      throw new RankmillError('invalid_request', `line ${number}: custom_id without a body`, { param: 'body' })
    }
    // Its id is the caller's name for the line; the run's requests have ids of their own.
    const { id: _, custom_id: __, ...request } = value
    return request as unknown as RerankInput
  }
  const { method, url, body } = value
  if (method !== undefined && method !== 'POST') {
    const message = `method: must be "POST", got ${JSON.stringify(method)}`
    throw new RankmillError('invalid_request', message, { param: 'method' })
  }
  if (url !== undefined && !URLS.has(String(url))) {
    const message = `url: must be one of ${[...URLS].join(', ')}, got ${JSON.stringify(url)}`
    throw new RankmillError('invalid_request', message, { param: 'url' })
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new RankmillError('invalid_request', 'body: must be an object', { param: 'body' })
  }
  const { id: _, ...request } = body as Record<string, unknown>
  return request as unknown as RerankInput
}

const lineId = (line: number) => `line-${line}`

/** What an output line says. */
export interface OutputLine {
  /** Number of the input line that it answers. */
  readonly line: number
  /** Of the error that it holds; undefined where it holds an answer. */
  readonly code: string | undefined
  readonly pairs: number
  readonly truncated: number
}

/** Reads an output line back; undefined where it is no whole one. */
export function readOutputLine(text: string): OutputLine | undefined {
  try {
    const { id, error, response } = JSON.parse(text) as {
      id?: unknown
      error?: { code: string } | null
      response?: { body: { usage: { pairs: number; truncated: number } } } | null
    }
    const number = /^line-([1-9]\d*)$/.exec(String(id))?.[1]
    if (number === undefined) return undefined
    const { pairs = 0, truncated = 0 } = response?.body.usage ?? {}
    return { line: Number(number), code: error?.code, pairs, truncated }
  } catch {
    return undefined
  }
}

/**
 * The output line of an item, in OpenAI's batch shape, its end included. The same request gives the same bytes whatever
 * happened on its way: times, and what came from a cache, are left out unless `details` asks for them.
 */
export function formatBatchLine(item: BatchItem, outcome: BatchOutcome, details: boolean): string {
  const id = lineId(item.line)
  const head = { id, custom_id: item.customId }
  if (outcome.error) {
    const error = { ...outcome.error.toBody(), line: item.line }
    return `${JSON.stringify({ ...head, response: null, error })}\n`
  }
  const body = bodyOf(outcome.result, item.customId ?? id, details)
  return `${JSON.stringify({ ...head, response: { status_code: 200, request_id: id, body }, error: null })}\n`
}

function bodyOf(result: RerankResult, id: string, details: boolean): object {
  if (details) return { ...result, id }
  const { timings_ms: _, usage, ...rest } = result
  const { scored: _scored, cached: _cached, tokens: _tokens, ...lasting } = usage
  return { ...rest, id, usage: lasting }
}
