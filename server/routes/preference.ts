/** How long a caller wants to wait: `?wait=20s`, or RFC 7240's `Prefer: wait=20` and `respond-async`. */
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import { invalid } from '../dialects/fields.js'

export interface Preference {
  /** Milliseconds to wait before the answer is 202; 0: none. */
  readonly waitMs: number
  /** What was applied, as `Preference-Applied` says it; undefined where the query says so. */
  readonly applied: string | undefined
}

const LONGEST_WAIT_MS = 600_000
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 }

export const waitQuery = z.object({
  wait: z
    .string()
    .optional()
    .meta({ pattern: '^([0-5]?[0-9]?[0-9](\\.[0-9]{1,3})?s?|[0-9]{1,5}ms|[0-9]m)$' })
    .describe('longest time to wait for the result: 20s, 500ms, or a number of seconds'),
})

/**
 * @returns undefined where the caller says nothing: then it waits for the answer
 * @throws RankmillError `invalid_request`
 */
export function preferenceOf(request: FastifyRequest): Preference | undefined {
  const { wait } = request.query as z.output<typeof waitQuery>
  if (wait !== undefined) return { waitMs: durationOf(wait), applied: undefined }
  const given = String(request.headers['prefer'] ?? '')
    .split(',')
    .map((part) => part.trim().toLowerCase())
  const seconds = given.map((part) => /^wait=(\d{1,6})$/.exec(part)?.[1]).find((found) => found !== undefined)
  const isAsync = given.includes('respond-async')
  if (seconds === undefined && !isAsync) return undefined
  const applied = [...(isAsync ? ['respond-async'] : []), ...(seconds === undefined ? [] : [`wait=${seconds}`])]
  return { waitMs: Math.min(LONGEST_WAIT_MS, Number(seconds ?? 0) * 1000), applied: applied.join(', ') }
}

/** @returns milliseconds @throws RankmillError `invalid_request` */
export function durationOf(text: string): number {
  const [, number, unit = 's'] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m)?$/.exec(text) ?? []
  const ms = number === undefined ? Number.NaN : Number(number) * (UNITS[unit] ?? 1000)
  if (!(ms <= LONGEST_WAIT_MS))
    throw invalid('wait', `must be a time of at most 600s, as 20s or 500ms, got ${JSON.stringify(text.slice(0, 40))}`)
  return Math.round(ms)
}
