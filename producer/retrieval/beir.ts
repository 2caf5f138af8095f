/** Readers of BEIR's files: corpus.jsonl, queries.jsonl, and relevance judgements (BEIR's TSV or TREC's qrels). */
import { parse } from 'csv-parse/sync'
import { idOf, passageTextOf, type RecordId, stringOf } from '../lines/beir-records.js'
import { recordFormatOf } from '../lines/record-format.js'
import { recordsOf } from '../lines/records.js'
import { type Line, lineError, nameOf, partsOf, type Source, type Sources, textLines } from '../lines/text-lines.js'
import { TREC_SPACE } from './trec-run.js'

export interface Passage {
  readonly id: string
  /** Title and text, with one space between where there is a title. */
  readonly text: string
}

export interface Query {
  readonly id: string
  readonly text: string
}

/** Grades by query, then document. */
export type Qrels = ReadonlyMap<string, ReadonlyMap<string, number>>

const BEIR_HEADER = ['query-id', 'corpus-id', 'score']

/**
 * Streams the passages of a corpus: `{"_id", "title", "text"}` or `{"id", "text"}`, one a line, title optional.
 *
 * Ids are remembered to find one that comes twice: those in `only` where it is given (other passages are left out
 * unchecked, so that memory is bounded by `only` and not by the corpus), else all.
 *
 * @throws RankmillError `invalid_request` naming file, line, field and value
 */
export async function* readCorpus(
  sources: Sources,
  { only }: { readonly only?: { has(id: string): boolean } } = {},
): AsyncGenerator<Passage> {
  const seen = new Set<string>()
  for (const source of partsOf(sources)) {
    for await (const record of recordsOf(source)) {
      const id = idOf(source, record, record.fields)
      if (only && !only.has(id.value)) continue
      refuseDuplicate(source, record, id, seen)
      yield { id: id.value, text: passageTextOf(source, record, record.fields) }
    }
  }
}

/**
 * Streams queries: `{"_id", "text"}` or `{"id", "text"}`, one a line, or in the same columns.
 *
 * @throws RankmillError `invalid_request` naming file, line, field and value
 */
export async function* readQueries(sources: Sources): AsyncGenerator<Query> {
  const seen = new Set<string>()
  for (const source of partsOf(sources)) {
    for await (const record of recordsOf(source)) {
      const id = idOf(source, record, record.fields)
      refuseDuplicate(source, record, id, seen)
      yield { id: id.value, text: stringOf(source, record, record.fields, 'text') }
    }
  }
}

/**
 * Reads judgements: BEIR's three tab-separated columns under a header, TREC's four (query, iteration, document, grade)
 * between any white space, or records with BEIR's columns as fields (JSON lines, CSV, Parquet). A judgement that is
 * repeated with the same grade counts once.
 *
 * @throws RankmillError `invalid_request` naming file, line, field and value
 */
export async function readQrels(sources: Sources): Promise<Qrels> {
  const qrels = new Map<string, Map<string, number>>()
  for (const source of partsOf(sources)) {
    for await (const { number, query, document, grade } of judgementsOf(source)) {
      if (query === '') throw lineError(source, number, 'must not be empty', { field: 'query-id', value: query })
      if (document === '') throw lineError(source, number, 'must not be empty', { field: 'corpus-id', value: document })
      if (!/^[+-]?\d{1,9}$/.test(grade))
        throw lineError(source, number, 'must be an integer', { field: 'score', value: grade })
      const judged = qrels.get(query) ?? new Map<string, number>()
      qrels.set(query, judged)
      const before = judged.get(document)
      if (before !== undefined && before !== Number(grade)) {
        const reason = `query ${query} has document ${document} twice, with grade ${before} before`
        throw lineError(source, number, reason, { field: 'score', value: grade })
      }
      judged.set(document, Number(grade))
    }
  }
  return qrels
}

async function* judgementsOf(source: Source): AsyncGenerator<JudgementColumns & { readonly number: number }> {
  const name = nameOf(source)
  if (/\.(jsonl|ndjson)(\.gz|\.zst)?$/i.test(name) || ['csv', 'parquet'].includes(recordFormatOf(name))) {
    for await (const { number, fields } of recordsOf(source)) {
      const [query, document, grade] = BEIR_HEADER.map((field) => String(fields[field] ?? ''))
      yield { number, query: query ?? '', document: document ?? '', grade: grade ?? '' }
    }
    return
  }
  let isBeir: boolean | undefined
  for await (const line of textLines(source)) {
    if (isBeir === undefined) {
      isBeir = isHeader(line.text)
      if (isBeir) continue
    }
    yield { number: line.number, ...(isBeir ? beirColumns(source, line) : trecColumns(source, line)) }
  }
}

function isHeader(text: string): boolean {
  const columns = tabColumns(text).map((column) => column.trim().toLowerCase())
  return columns.length === BEIR_HEADER.length && columns.every((column, i) => column === BEIR_HEADER[i])
}

/** Between tabs, and in quotes where CSV would have them: BEIR's own files are written and read as CSV. */
function tabColumns(text: string): string[] {
  if (!text.includes('"')) return text.split('\t')
  return parse(text, { delimiter: '\t', relax_quotes: true })[0] ?? []
}

interface JudgementColumns {
  readonly query: string
  readonly document: string
  readonly grade: string
}

function beirColumns(source: Source, { number, text }: Line): JudgementColumns {
  const columns = tabColumns(text)
  const [query, document, grade] = columns
  if (columns.length !== 3 || query === undefined || document === undefined || grade === undefined)
    throw lineError(
      source,
      number,
      `must have 3 columns between tabs (${BEIR_HEADER.join(', ')}), got ${columns.length}`,
    )
  return { query, document, grade: grade.trim() }
}

function trecColumns(source: Source, { number, text }: Line): JudgementColumns {
  const columns = text.split(TREC_SPACE).filter((column) => column !== '')
  const [query, , document, grade] = columns
  if (columns.length !== 4 || query === undefined || document === undefined || grade === undefined) {
    const expected = `must have TREC's 4 columns (query, iteration, document, grade), or the file must begin with BEIR's header (${BEIR_HEADER.join(', ')} between tabs)`
    throw lineError(source, number, `${expected}, got ${columns.length} columns`)
  }
  return { query, document, grade }
}

function refuseDuplicate(source: Source, { number }: Line, { field, value }: RecordId, seen: Set<string>): void {
  if (seen.has(value)) throw lineError(source, number, 'is the id of an earlier line too', { field, value })
  seen.add(value)
}
