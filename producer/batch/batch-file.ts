/** A run from file to file, as the command line, the API and the library start it. */
import { RankmillError } from '../../shared/errors.js'
import { type OptionsInput, resolveOptions } from '../../shared/options.js'
import { recordFormatOf } from '../lines/record-format.js'
import { type BatchInput, isList, openInputs, resolvedInput } from './batch-inputs.js'
import { formatBatchLine, readOutputLine } from './batch-line.js'
import { type BatchOptions, BatchRun } from './batch-run.js'
import type { BatchSource } from './batch-source.js'
import type { BatchFormat } from './batch-state.js'
import { answersFileOf, checkDelivery, deliveryOf, refuseRead } from './delivery.js'
import type { InputFile } from './output-place.js'
import { REQUEST_COLUMNS, type RequestColumns } from './row-source.js'
import type { RequestFields, RunSettings } from './run-settings.js'

/** Standard input, by name. */
const STANDARD = '-'

export interface BatchFileOptions {
  /**
   * Files or patterns of files, one after another: JSON lines, or tables by the names `.csv`, `.tsv` and `.parquet`; `.gz` and
   * `.zst` are decompressed. Or a stream of JSON lines.
   */
  readonly input: BatchInput
  /** Of tables; default: `query` and `documents`. */
  readonly columns?: RequestColumns | undefined
  /**
   * A path, or `s3://…`, compressed by its name; `.csv`, `.tsv` and `.parquet` become the input's table with the answers, for
   * which the run writes JSON lines to `….answers.jsonl` beside it. Or a stream, which a later run cannot go on with.
   */
  readonly output: string | NodeJS.WritableStream
  /** Fields of requests whose lines do not give them. */
  readonly defaults?: RequestFields | undefined
  /** What becomes of ids that a corpus lacks, where a request does not say; default: an error line that lists them. */
  readonly missing?: 'error' | 'skip' | undefined
  /** Write answers as they come; default: in the order of the input. */
  readonly unordered?: boolean | undefined
  /** Write the times of each request, and what came from a cache: the same input then gives other bytes each time. */
  readonly details?: boolean | undefined
  /** Stop when more requests than this have failed; default: never. */
  readonly maxErrors?: number | undefined
  /** Begin anew even where the output holds another run; one that began so and was interrupted is gone on with. */
  readonly overwrite?: boolean | undefined
  /** Go on with answers of another model, or with other options of the workers, than the run began with. */
  readonly allowModelChange?: boolean | undefined
  /** Go on with the current version of a corpus where the one that the run began with is gone. */
  readonly allowCorpusChange?: boolean | undefined
  /** Limits: docs/configuration.md, "batch". */
  readonly options?: OptionsInput | undefined
}

/**
 * Opens a run, whose `run(client)` then works until the end of the input. Opened again with the same input and output
 * after any end, it goes on where it was.
 *
 * @throws RankmillError `input_unreadable`, `invalid_configuration`, `output_exists`, `output_in_use`, `output_changed`,
 *   `output_unwritable`
 */
export async function openBatch(options: BatchFileOptions): Promise<BatchRun> {
  const limits = resolveOptions({ ...options.options })
  const { output } = options
  const input = await resolvedInput(options.input, typeof output === 'string' ? output : undefined)
  await checkBatch({ ...options, input }, limits.maxLineBytes)
  const source = await openSource({ ...options, input }, limits.maxLineBytes)
  return BatchRun.open(runOptions(source, { ...options, input }, limits))
}

/**
 * Refuses what could not be written at the end of a run, and what must not be. Opens nothing to write.
 *
 * @param options `input` without patterns
 * @param others further files that are read, by runs that come with this one
 * @throws RankmillError `invalid_configuration`, `output_exists`, `output_unwritable`, `input_unreadable`
 */
export async function checkBatch(
  { input, output, unordered = false, overwrite = false }: BatchFileOptions,
  maxLineBytes: number,
  others: readonly string[] = [],
): Promise<void> {
  if (typeof output !== 'string') return
  if (unordered && recordFormatOf(output) !== 'jsonl') {
    const message = `unordered: a table has the rows of its input in their order, and ${output} is one`
    throw new RankmillError('invalid_configuration', message, { param: 'unordered' })
  }
  const files = filesIn(input)
  await refuseRead(output, [...files, ...others])
  await checkDelivery(files, output, maxLineBytes, overwrite)
}

export async function openSource(
  { input, columns }: Pick<BatchFileOptions, 'input' | 'columns'>,
  maxLineBytes: number,
): Promise<BatchSource> {
  return openInputs(input, maxLineBytes, columns)
}

export function runOptions(
  source: BatchSource,
  {
    input,
    columns = REQUEST_COLUMNS,
    output,
    defaults = {},
    missing,
    unordered = false,
    details = false,
    maxErrors,
    overwrite = false,
    allowModelChange = false,
    allowCorpusChange = false,
  }: BatchFileOptions,
  limits: ReturnType<typeof resolveOptions>,
): BatchOptions {
  return {
    source,
    output: typeof output === 'string' ? answersFileOf(output) : output,
    delivery: typeof output === 'string' ? deliveryOf(filesIn(input), output, limits.maxLineBytes) : undefined,
    format: jsonLines(details),
    inputs: inputFiles(input),
    inOrder: !unordered,
    defaults,
    missing,
    maxErrors: maxErrors ?? Number.POSITIVE_INFINITY,
    overwrite,
    allowModelChange,
    allowCorpusChange,
    settings: { details, ...(hasTable(input) ? columnSettings(columns) : {}) },
    limits,
  }
}

function hasTable(input: BatchInput): boolean {
  return filesIn(input).some((file) => recordFormatOf(file) !== 'jsonl')
}

/** None, where it is a stream. */
function filesIn(input: BatchInput): readonly string[] {
  return typeof input === 'string' ? [input] : isList(input) ? input : []
}

function columnSettings({ query, documents }: RequestColumns): RunSettings {
  return { queryColumn: query, documentsColumn: documents }
}

function jsonLines(details: boolean): BatchFormat {
  return {
    encode: ({ item, outcome }) => formatBatchLine(item, outcome, details),
    recover: readOutputLine,
  }
}

/** What must not be written to; a stream that is an open file has its number. */
function inputFiles(input: BatchInput): InputFile[] {
  if (typeof input === 'string') return [fileOf(input)]
  if (isList(input)) return input.map(fileOf)
  const { fd } = input as { fd?: unknown }
  return typeof fd === 'number' ? [fd] : []
}

/** Standard input by its number. */
export function fileOf(input: string): InputFile {
  return input === STANDARD ? 0 : input
}
