/** An answer of very many rows, written as it is made: neither held as one text nor made in one go. */
import { Readable } from 'node:stream'
import { setImmediate as breath } from 'node:timers/promises'

/** Rows that become one piece: a millisecond or two. */
const ROWS = 500

/** @returns undefined where no list in it is long */
export function jsonStream(answer: unknown): Readable | undefined {
  const isObject = typeof answer === 'object' && answer !== null && !Array.isArray(answer)
  const lists = isObject ? Object.values(answer) : [answer]
  if (!lists.some(isLong)) return undefined
  return Readable.from(isObject ? object(answer as Record<string, unknown>) : list(answer as unknown[]), {
    objectMode: false,
  })
}

function isLong(value: unknown): value is unknown[] {
  return Array.isArray(value) && value.length > ROWS
}

async function* object(answer: Record<string, unknown>): AsyncGenerator<string> {
  let before = '{'
  for (const [key, value] of Object.entries(answer)) {
    if (value === undefined) continue
    yield `${before}${JSON.stringify(key)}:`
    before = ','
    if (isLong(value)) yield* list(value)
    else yield JSON.stringify(value)
  }
  yield '}'
}

async function* list(rows: readonly unknown[]): AsyncGenerator<string> {
  for (let from = 0; from < rows.length; from += ROWS) {
    yield `${from === 0 ? '[' : ','}${JSON.stringify(rows.slice(from, from + ROWS)).slice(1, -1)}`
    await breath()
  }
  yield ']'
}
