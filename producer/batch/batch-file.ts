/** A run from file to file, as the command line, the API and the library start it. */
import { realpathSync } from 'node:fs'
import { RankmillError } from '../../shared/errors.js'
import { type OptionsInput, resolveOptions } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { type BatchInput, isList, openInputs } from './batch-inputs.js'
import { formatBatchLine, readOutputLine } from './batch-line.js'
import { type BatchOptions, BatchRun } from './batch-run.js'
import type { BatchSource } from './batch-source.js'
import type { BatchFormat } from './batch-state.js'
import type { RequestColumns } from './row-source.js'

export interface BatchFileOptions {
  /**
   * Files or patterns of files, one after another: JSON lines, or tables by the names `.csv`, `.tsv` and `.parquet`; `.gz` and
   * `.zst` are decompressed. Or a stream of JSON lines.
   */
  readonly input: BatchInput
  /** Of tables; default: `query` and `documents`. */
  readonly columns?: RequestColumns | undefined
  /** A path, compressed by its name, or a stream, which a later run cannot go on with. */
  readonly output: string | NodeJS.WritableStream
  /** Fields of requests whose lines do not give them. */
  readonly defaults?: Partial<Omit<RerankInput, 'id' | 'query' | 'documents'>> | undefined
  /** What becomes of ids that a corpus lacks, where a request does not say; default: an error line that lists them. */
  readonly missing?: 'error' | 'skip' | undefined
  /** Write answers as they come; default: in the order of the input. */
  readonly unordered?: boolean | undefined
  /** Write the times of each request, and what came from a cache: the same input then gives other bytes each time. */
  readonly details?: boolean | undefined
  /** Stop when more requests than this have failed; default: never. */
  readonly maxErrors?: number | undefined
  /** Begin anew even where the output holds another run. */
  readonly overwrite?: boolean | undefined
  /** Limits: docs/configuration.md, "batch". */
  readonly options?: OptionsInput | undefined
}

/**
 * Opens a run, whose `run(client)` then works until the end of the input. Opened again with the same input and output
 * after any end, it goes on where it was.
 *
 * @throws RankmillError `input_unreadable`, `invalid_configuration`, `output_exists`, `output_in_use`, `output_unwritable`
 */
export async function openBatch(options: BatchFileOptions): Promise<BatchRun> {
  const limits = resolveOptions({ ...options.options })
  refuseSameFile(options)
  const source = await openSource(options, limits.maxLineBytes)
  return BatchRun.open(runOptions(source, options, limits))
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
    output,
    defaults = {},
    missing,
    unordered = false,
    details = false,
    maxErrors,
    overwrite = false,
  }: BatchFileOptions,
  limits: ReturnType<typeof resolveOptions>,
): BatchOptions {
  return {
    source,
    output,
    format: jsonLines(details),
    inOrder: !unordered,
    defaults,
    missing,
    maxErrors: maxErrors ?? Number.POSITIVE_INFINITY,
    overwrite,
    settings: { details, missing, ...defaults },
    limits,
  }
}

function jsonLines(details: boolean): BatchFormat {
  return {
    encode: ({ item, outcome }) => formatBatchLine(item, outcome, details),
    recover: readOutputLine,
  }
}

function refuseSameFile({ input, output }: BatchFileOptions): void {
  if (typeof output !== 'string') return
  const written = realPath(output)
  const inputs = typeof input === 'string' ? [input] : isList(input) ? input : []
  if (written === undefined || inputs.every((path) => realPath(path) !== written)) return
  throw new RankmillError('output_exists', `${output}: is the input as well`, { param: 'output' })
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path)
  } catch {
    return undefined
  }
}
