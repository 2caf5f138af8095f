/** TREC run files: six columns, `query Q0 document rank score tag`. Order and ties are those of trec_eval. */
import { RankmillError } from '../../shared/errors.js'
import { lineError, type Source, textLines } from '../lines/text-lines.js'

/** One query's documents, best first, as trec_eval orders them. */
export interface Ranking {
  readonly docIds: readonly string[]
  /** Of the document at the same place. */
  readonly scores: readonly number[]
}

/** Rankings by query id, in the order in which the queries first appear. */
export type TrecRun = ReadonlyMap<string, Ranking>

/** What C calls white space: ids may hold any other character, U+00A0 for one. */
export const TREC_SPACE = /[ \t\v\f\r]+/
const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/
/** Characters that end a column in one reader or another. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const UNWRITABLE = /[\x00-\x20\x7f]/

/**
 * Reads a run. Ranks are ignored, as trec_eval does: the order is by score, highest first, then by document id. Queries
 * may be interleaved. Holds the run in memory: about 30 bytes a line, and each distinct document id once.
 *
 * @throws RankmillError `invalid_request` naming file, line, field and value: wrong number of columns, a score that is
 *   not a finite number, a document that a query has twice
 */
export async function readTrecRun(source: Source): Promise<TrecRun> {
  const rows = new Map<string, { docIds: string[]; scores: number[]; lines: number[] }>()
  const ids = new Map<string, string>()
  for await (const { number, text } of textLines(source)) {
    const columns = text.split(TREC_SPACE).filter((column) => column !== '')
    const [query, , document, , score] = columns
    if (columns.length !== 6 || query === undefined || document === undefined || score === undefined) {
      const expected = 'must have 6 columns (query, Q0, document, rank, score, tag)'
      throw lineError(source, number, `${expected}, got ${columns.length}`)
    }
    if (!DECIMAL.test(score) || !Number.isFinite(Number(score)))
      throw lineError(source, number, 'must be a finite number', { field: 'score', value: score })
    const row = rows.get(query) ?? { docIds: [], scores: [], lines: [] }
    if (row.lines.length === 0) rows.set(query, row)
    // The same string object for the same id: a run names each document many times.
    const id = ids.get(document) ?? document
    if (id === document) ids.set(id, id)
    row.docIds.push(id)
    row.scores.push(Number(score))
    row.lines.push(number)
  }
  const run = new Map<string, Ranking>()
  for (const [query, { docIds, scores, lines }] of rows) {
    refuseDuplicates(source, query, docIds, lines)
    run.set(query, rankingOf(docIds, scores))
  }
  return run
}

function refuseDuplicates(source: Source, query: string, docIds: readonly string[], lines: readonly number[]): void {
  const first = new Map<string, number>()
  docIds.forEach((id, i) => {
    const line = lines[i] ?? 0
    const before = first.get(id)
    if (before !== undefined) {
      const reason = `query ${query} has the document in line ${before} already`
      throw lineError(source, line, reason, { field: 'document', value: id })
    }
    first.set(id, line)
  })
}

/**
 * Orders documents as trec_eval does: score descending, ties by document id descending, byte by byte. trec_eval holds
 * scores in single precision, so scores that differ by less tie.
 */
export function rankingOf(docIds: readonly string[], scores: readonly number[]): Ranking {
  const single = Float32Array.from(scores)
  const order = docIds.map((_, i) => i)
  // Infinities from rounding are equal to each other, so no difference is taken.
  order.sort((a, b) => {
    const [x, y] = [single[a] ?? 0, single[b] ?? 0]
    return x === y ? compareBytes(docIds[b] ?? '', docIds[a] ?? '') : x < y ? 1 : -1
  })
  return { docIds: order.map((i) => docIds[i] ?? ''), scores: order.map((i) => scores[i] ?? 0) }
}

/** Order of the UTF-8 bytes of two strings: that of code points, where JavaScript's `<` takes UTF-16 units. */
export function compareBytes(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)]
    if (x !== y) return codePointOrder(x) - codePointOrder(y)
  }
  return a.length - b.length
}

/** Moves surrogates (code points from U+10000) behind the units U+E000 to U+FFFF. */
function codePointOrder(unit: number): number {
  if (unit < 0xd800) return unit
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800
}

export interface RankedScore {
  readonly docId: string
  readonly score: number
}

/**
 * The lines of one query in a run file, ranks from 1, each ended by LF.
 *
 * Scores are written with all their digits. One that is not below the one before in single precision is written as the next
 * single below that, since trec_eval orders by score, then by id, whatever the ranks say: logits that a sigmoid made equal, and
 * passages that are, keep their order.
 *
 * @param ranked best first
 * @param tag the run's name, the last column
 * @throws RankmillError `invalid_request` where an id or the tag is empty or holds white space or a control character
 *   (TREC's format cannot express it), where a document comes twice, or where scores are not finite and descending
 */
export function formatTrecLines(queryId: string, ranked: readonly RankedScore[], tag = 'rankmill'): string {
  refuseUnwritable('query id', queryId)
  refuseUnwritable('tag', tag)
  const seen = new Set<string>()
  const scores = singleScores(queryId, ranked)
  return ranked
    .map(({ docId }, i) => {
      refuseUnwritable('document id', docId)
      if (seen.has(docId)) throw refused('document id', `query ${queryId} has ${JSON.stringify(docId)} twice`)
      seen.add(docId)
      return `${queryId} Q0 ${docId} ${i + 1} ${scores[i]} ${tag}\n`
    })
    .join('')
}

/**
 * What was reranked, followed by the first stage's candidates that were not (those after `depth`), in their order. As
 * scores of the two stages do not compare, the rest counts down from one below the lowest score.
 */
export function withRest(ranked: readonly RankedScore[], firstStage: Ranking, depth: number): RankedScore[] {
  const present = new Set(ranked.map(({ docId }) => docId))
  const lowest = ranked.at(-1)?.score ?? 0
  const rest = firstStage.docIds.slice(depth).filter((docId) => !present.has(docId))
  return [...ranked, ...rest.map((docId, i) => ({ docId, score: lowest - 1 - i }))]
}

/** Scores to write, each below the one before in single precision. */
function singleScores(queryId: string, ranked: readonly RankedScore[]): number[] {
  const written: number[] = []
  ranked.forEach(({ docId, score }, i) => {
    const place = `query ${queryId}, document ${JSON.stringify(docId)}`
    if (!Number.isFinite(Math.fround(score))) throw refused('score', `${place}: must be a finite single, got ${score}`)
    const above = ranked[i - 1]?.score ?? Number.POSITIVE_INFINITY
    const aboveWritten = written[i - 1] ?? Number.POSITIVE_INFINITY
    if (score > above) throw refused('score', `${place}: must not be over the one before, ${above}, got ${score}`)
    if (Math.fround(score) < Math.fround(aboveWritten)) written.push(score)
    else written.push(nextSingleBelow(aboveWritten))
  })
  return written
}

function nextSingleBelow(value: number): number {
  const single = new Float32Array([value])
  const bits = new Int32Array(single.buffer)
  const [number, pattern] = [single[0] ?? 0, bits[0] ?? 0]
  // Patterns of singles grow with their magnitude; below both zeros comes the smallest negative.
  if (number === 0) return -(2 ** -149)
  bits[0] = number > 0 ? pattern - 1 : pattern + 1
  return single[0] ?? 0
}

function refuseUnwritable(what: string, id: string): void {
  if (id !== '' && !UNWRITABLE.test(id) && id.isWellFormed()) return
  const reason = id === '' ? 'is empty' : 'holds white space, a control character or half a character'
  throw refused(what, `${JSON.stringify(id)} ${reason}, which a TREC run cannot express`)
}

function refused(what: string, message: string): RankmillError {
  return new RankmillError('invalid_request', `${what}: ${message}`, { param: what })
}
