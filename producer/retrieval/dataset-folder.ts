/** A data set as it lies in a folder: BEIR's layout, in its own files or as Hugging Face keeps it (Parquet, in shards). */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { glob } from 'tinyglobby'
import { RankmillError } from '../../shared/errors.js'

export interface DatasetFiles {
  readonly corpus: readonly string[]
  readonly queries: readonly string[]
  /** Of the test split. */
  readonly qrels: readonly string[] | undefined
  readonly run: string | undefined
}

const RECORDS = '{jsonl,csv,tsv,parquet}{,.gz,.zst}'
/** Of each part the first pattern that finds something counts, with all that it finds. */
const places = (part: string) => [`${part}.${RECORDS}`, `${part}/*.${RECORDS}`, `{,data/}${part}-*.${RECORDS}`]
const PLACES = {
  corpus: places('corpus'),
  queries: places('queries'),
  qrels: [
    `qrels.${RECORDS}`,
    `qrels/test.${RECORDS}`,
    `qrels/test-*.${RECORDS}`,
    `{default,qrels,data}/test{,-*}.${RECORDS}`,
    `test.${RECORDS}`,
  ],
  run: ['run.trec', 'bm25.trec'],
} as const

/** @throws RankmillError `input_unreadable` where it is no folder, or has no corpus or no queries */
export async function datasetFiles(folder: string): Promise<DatasetFiles> {
  const found = await stat(folder).catch(() => undefined)
  if (!found?.isDirectory()) throw new RankmillError('input_unreadable', `${folder}: is no folder`, { param: 'folder' })
  const corpus = await find(folder, 'corpus')
  const queries = await find(folder, 'queries')
  const missing = corpus.length === 0 ? 'corpus' : queries.length === 0 ? 'queries' : undefined
  if (missing !== undefined) {
    const message = `${folder}: has no ${missing}: looked for ${PLACES[missing].map((place) => place.replace(RECORDS, '*')).join(', ')}`
    throw new RankmillError('input_unreadable', message, { param: missing })
  }
  const qrels = await find(folder, 'qrels')
  const [run] = await find(folder, 'run')
  return { corpus, queries, qrels: qrels.length > 0 ? qrels : undefined, run }
}

async function find(folder: string, part: keyof typeof PLACES): Promise<string[]> {
  for (const pattern of PLACES[part]) {
    const names = await glob(pattern, { cwd: folder, onlyFiles: true, expandDirectories: false })
    if (names.length > 0) return names.sort().map((name) => join(folder, name))
  }
  return []
}
