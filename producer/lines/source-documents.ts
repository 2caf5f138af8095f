/** Documents from files, for one query: records in every format that is read, or plain lines. */
import { MAX_ID_CHARACTERS } from '../../shared/protocol/field-schemas.js'
import { optionalIdOf, passageTextOf } from './beir-records.js'
import { recordFormatOf } from './record-format.js'
import { type PlacedRecord, recordsOf } from './records.js'
import { cutToBytes, lineError, MAX_LINE_BYTES, nameOf, type Source, textLines } from './text-lines.js'

export interface SourceDocument {
  readonly id?: string
  readonly text: string
  /** What the first stage gave it. */
  readonly score?: number
  /** `corpus.jsonl:17` */
  readonly source: string
  /** The text was longer than allowed. */
  readonly isCut: boolean
}

/**
 * @param asRecords JSON lines of `{"_id" or "id", "title", "text", "score"}`, of which only the text must be there; CSV, TSV
 *   and Parquet are records by their names
 * @param maxBytes of a text; longer ones are cut
 * @throws RankmillError `invalid_request` naming file, line, field and value
 */
export async function* documentsOf(
  source: Source,
  asRecords: boolean,
  maxBytes: number,
): AsyncGenerator<SourceDocument> {
  if (!asRecords && recordFormatOf(nameOf(source)) === 'jsonl') {
    for await (const { number, text } of textLines(source))
      yield { ...cut(text, maxBytes), source: `${nameOf(source)}:${number}` }
    return
  }
  for await (const record of recordsOf(source, MAX_LINE_BYTES, 'without --jsonl each line is a document')) {
    const id = optionalIdOf(source, record, record.fields)?.value
    const score = scoreOf(source, record)
    yield {
      ...(id === undefined ? {} : { id }),
      ...cut(passageTextOf(source, record, record.fields), maxBytes),
      ...(score === undefined ? {} : { score }),
      source: `${nameOf(source)}:${record.number}`,
    }
  }
}

/** What a request can have as a document: without an id that is longer than ids may be. */
export function requestDocument({ id, text, score }: SourceDocument): { id?: string; text: string; score?: number } {
  return {
    ...(id === undefined || id.length > MAX_ID_CHARACTERS ? {} : { id }),
    text,
    ...(score === undefined ? {} : { score }),
  }
}

function scoreOf(source: Source, { number, fields }: PlacedRecord): number | undefined {
  const value = fields['score']
  if (value === undefined || value === null) return undefined
  const score = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof score === 'number' && Number.isFinite(score)) return score
  throw lineError(source, number, 'must be a finite number', { field: 'score', value })
}

function cut(text: string, maxBytes: number): { text: string; isCut: boolean } {
  const whole = text.toWellFormed()
  const kept = cutToBytes(whole, maxBytes)
  return { text: kept, isCut: kept.length < whole.length }
}
