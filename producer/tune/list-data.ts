/** Lists of a user's own to measure with: a file of requests as `batch run` takes, or a folder in BEIR's layout. */
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { parseRequest, requestSchema } from '../../shared/protocol/request.js'
import { INPUT_START } from '../batch/batch-source.js'
import { LineSource } from '../batch/line-source.js'
import { datasetFiles } from '../retrieval/dataset-folder.js'
import type { TuningQuery } from './trial.js'
import { readTuningQueries } from './tuning-queries.js'

/**
 * Reads lists of at least two documents. Of a file the first requests that have them are taken, of a folder queries from all
 * over it: those with judgements, where there are some, and their candidates from its run, else by BM25.
 *
 * @param sample lists at most
 * @param depth documents of a list at most
 * @throws RankmillError `input_unreadable`, `invalid_line`, `invalid_request`, naming the file and the line
 */
export async function readLists(
  path: string,
  sample: number,
  depth: number,
  options: Options,
): Promise<readonly TuningQuery[]> {
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() ?? false
  if (isFolder) return readTuningQueries(await datasetFiles(path), sample, depth)
  return readRequests(path, sample, depth, options)
}

async function readRequests(
  path: string,
  sample: number,
  depth: number,
  options: Options,
): Promise<readonly TuningQuery[]> {
  const source = await LineSource.open(path, options.maxLineBytes)
  const schema = requestSchema(options)
  const lists: TuningQuery[] = []
  for await (const item of source.read(INPUT_START)) {
    if (item.error) throw new RankmillError(item.error.code, `${path}: ${placed(item.error.message, item.line)}`)
    const { query, documents } = requestOf(() => parseRequest(item.request, schema, () => ''), path, item.line)
    if (!isInline(documents)) {
      const message = `${path}: line ${item.line}: documents: must be texts; those of a corpus cannot be measured with`
      throw new RankmillError('invalid_request', message, { param: 'documents' })
    }
    if (documents.length < 2) continue
    // Ids of the caller's may come twice; places do not.
    const texts = documents.slice(0, depth).map(({ text }, i) => ({ id: String(i), text }))
    lists.push({ query, documents: texts, grades: undefined })
    if (lists.length >= sample) break
  }
  if (lists.length > 0) return lists
  throw new RankmillError('invalid_request', `${path}: holds no request with two documents or more`, { param: 'data' })
}

type Parsed = ReturnType<typeof parseRequest>

function isInline(documents: Parsed['documents']): documents is Exclude<Parsed['documents'], { corpus: string }> {
  return Array.isArray(documents)
}

function requestOf(parse: () => Parsed, path: string, line: number): Parsed {
  try {
    return parse()
  } catch (cause) {
    const { code, message, details } = RankmillError.from(cause)
    throw new RankmillError(code, `${path}: line ${line}: ${message}`, details, { cause })
  }
}

function placed(message: string, line: number): string {
  return message.startsWith(`line ${line}:`) ? message : `line ${line}: ${message}`
}
