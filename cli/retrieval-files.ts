/** The files of a retrieval data set: what flags name, and for the rest what a folder has. */
import { datasetFiles } from '../producer/retrieval/dataset-folder.js'
import { RankmillError } from '../shared/errors.js'

export interface RetrievalFlags {
  readonly corpus?: string
  readonly queries?: string
  readonly run?: string
  readonly qrels?: string
}

export interface RetrievalFiles {
  readonly corpus: string | readonly string[]
  readonly queries: string | readonly string[]
  readonly run: string | undefined
  readonly qrels: string | readonly string[] | undefined
}

/** @throws RankmillError `invalid_configuration` where neither names a part, `input_unreadable` where the folder is none */
export async function retrievalFiles(flags: RetrievalFlags, folder: string | undefined): Promise<RetrievalFiles> {
  const found = folder === undefined ? undefined : await datasetFiles(folder)
  return {
    corpus: needed(flags.corpus ?? found?.corpus, 'corpus', folder),
    queries: needed(flags.queries ?? found?.queries, 'queries', folder),
    run: flags.run ?? found?.run,
    qrels: flags.qrels ?? found?.qrels,
  }
}

/** @throws RankmillError `invalid_configuration` where it is not there */
export function needed<T>(file: T | undefined, flag: keyof RetrievalFlags, folder: string | undefined): T {
  if (file !== undefined) return file
  const message = `--${flag}: must be given${folder === undefined ? ', or a folder that has it' : ` (${folder} has none)`}`
  throw new RankmillError('invalid_configuration', message, { param: flag })
}
