/** Lists of a user's own to measure with: a file of requests as `batch run` takes, or a folder in BEIR's layout. */
import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { parseRequest, requestSchema } from '../../shared/protocol/request.js'
import { INPUT_START, LineSource } from '../batch/batch-source.js'
import type { TuningQuery } from './trial.js'
import { readTuningQueries } from './tuning-queries.js'

/** Names that the files of a folder may have; the first that is there counts. */
const FOLDER = {
  corpus: ['corpus.jsonl', 'corpus.jsonl.gz', 'corpus.jsonl.zst'],
  queries: ['queries.jsonl', 'queries.jsonl.gz', 'queries.jsonl.zst'],
  qrels: ['qrels.tsv', 'qrels/test.tsv'],
  run: ['run.trec', 'bm25.trec'],
} as const

/**
 * Reads lists of at least two documents. Of a file the first requests that have them are taken, of a folder queries from all
 * over it: those with judgements, where there are some (`qrels.tsv`, `qrels/test.tsv`), and their candidates from `run.trec`
 * or `bm25.trec`, else by BM25.
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
  return isFolder ? await readFolder(path, sample, depth) : await readRequests(path, sample, depth, options)
}

async function readFolder(folder: string, sample: number, depth: number): Promise<readonly TuningQuery[]> {
  const find = (part: keyof typeof FOLDER) => {
    const name = FOLDER[part].find((candidate) => existsSync(join(folder, candidate)))
    return name === undefined ? undefined : join(folder, name)
  }
  const [corpus, queries] = [find('corpus'), find('queries')]
  if (corpus === undefined || queries === undefined) {
    const missing = corpus === undefined ? FOLDER.corpus[0] : FOLDER.queries[0]
    throw new RankmillError('input_unreadable', `${folder}: a folder of lists needs ${missing}, not there`, {
      param: 'data',
    })
  }
  return await readTuningQueries({ corpus, queries, qrels: find('qrels'), run: find('run') }, sample, depth)
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
    if (item.error) throw new RankmillError(item.error.code, `${path}: line ${item.line}: ${item.error.message}`)
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
