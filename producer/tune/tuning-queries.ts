/** The user's own queries with their candidates, read for tuning. */
import MiniSearch from 'minisearch'
import { RankmillError } from '../../shared/errors.js'
import { readCorpus, readQrels, readQueries } from '../retrieval/beir.js'
import { readTrecRun } from '../retrieval/trec-run.js'
import type { TuningQuery } from './trial.js'

export interface TuningFiles {
  /** Passages and queries: BEIR JSONL. */
  readonly corpus: string
  readonly queries: string
  /** Candidates: a TREC run; without one, BM25's over the corpus, in memory. */
  readonly run?: string | undefined
  /** Judgements; with them, only queries that have some are read. */
  readonly qrels?: string | undefined
}

/**
 * @param sample queries at most, from all over the file
 * @param depth candidates of a query at most
 * @throws RankmillError `invalid_request` for files that cannot be read, or where no query is left
 */
export async function readTuningQueries(
  { corpus, queries, run, qrels }: TuningFiles,
  sample: number,
  depth: number,
): Promise<TuningQuery[]> {
  const judged = qrels === undefined ? undefined : await readQrels(qrels)
  const texts = new Map<string, string>()
  for await (const { id, text } of readQueries(queries)) if (!judged || judged.has(id)) texts.set(id, text)
  const candidates =
    run === undefined ? await retrieve(corpus, texts, sample, depth) : await fromRun(run, texts, sample, depth)
  const wanted = new Set([...candidates.values()].flat())
  const passages = new Map<string, string>()
  for await (const { id, text } of readCorpus(corpus, { only: wanted })) passages.set(id, text)
  const found = [...candidates].map(([id, docIds]): TuningQuery => {
    const documents = docIds.flatMap((docId) => {
      const text = passages.get(docId)
      return text === undefined ? [] : [{ id: docId, text }]
    })
    return { query: texts.get(id) ?? '', documents, grades: judged?.get(id) }
  })
  const usable = found.filter(({ documents }) => documents.length > 1)
  if (usable.length > 0) return usable
  const message = 'queries: none has a text, candidates and, where asked for, judgements'
  throw new RankmillError('invalid_request', message, { param: 'queries' })
}

async function fromRun(file: string, texts: ReadonlyMap<string, string>, sample: number, depth: number) {
  const run = await readTrecRun(file)
  const ids = spread(
    [...run.keys()].filter((id) => texts.has(id)),
    sample,
  )
  return new Map(ids.map((id) => [id, run.get(id)?.docIds.slice(0, depth) ?? []]))
}

async function retrieve(corpus: string, texts: ReadonlyMap<string, string>, sample: number, depth: number) {
  const index = new MiniSearch<{ id: string; text: string }>({ fields: ['text'] })
  for await (const { id, text } of readCorpus(corpus)) index.add({ id, text })
  const ids = spread([...texts.keys()], sample)
  const search = (id: string) =>
    index
      .search(texts.get(id) ?? '')
      .slice(0, depth)
      .map((hit) => String(hit.id))
  return new Map(ids.map((id) => [id, search(id)]))
}

/** So many of a list, from all over it. */
function spread<T>(list: readonly T[], count: number): T[] {
  if (list.length <= count) return [...list]
  return Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)] as T)
}
