/** The user's own queries with their candidates, read for tuning. */
import MiniSearch from 'minisearch'
import { RankmillError } from '../../shared/errors.js'
import type { Sources } from '../lines/text-lines.js'
import { readCorpus, readQrels, readQueries } from '../retrieval/beir.js'
import { type Ranking, readTrecRun } from '../retrieval/trec-run.js'
import type { TuningQuery } from './trial.js'

export interface TuningFiles {
  /** Passages and queries, as `batch trec` takes them. */
  readonly corpus: Sources
  readonly queries: Sources
  /** Candidates: a TREC run; without one, BM25's over the corpus, in memory. */
  readonly run?: string | undefined
  /** Judgements; with them, only queries that have some are read. */
  readonly qrels?: Sources | undefined
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
  const wanted = new Set([...candidates.values()].flatMap(({ docIds }) => docIds))
  const passages = new Map<string, string>()
  for await (const { id, text } of readCorpus(corpus, { only: wanted })) passages.set(id, text)
  const found = [...candidates].map(([id, { docIds, scores }]): TuningQuery => {
    const documents = docIds.flatMap((docId, i) => {
      const text = passages.get(docId)
      const score = scores[i]
      return text === undefined ? [] : [{ id: docId, text, ...(score === undefined ? {} : { score }) }]
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
  return new Map(
    ids.map((id): [string, Ranking] => {
      const { docIds, scores } = run.get(id) ?? { docIds: [], scores: [] }
      return [id, { docIds: docIds.slice(0, depth), scores: scores.slice(0, depth) }]
    }),
  )
}

async function retrieve(corpus: Sources, texts: ReadonlyMap<string, string>, sample: number, depth: number) {
  const index = new MiniSearch<{ id: string; text: string }>({ fields: ['text'] })
  for await (const { id, text } of readCorpus(corpus)) index.add({ id, text })
  const ids = spread([...texts.keys()], sample)
  const search = (id: string): Ranking => {
    const hits = index.search(texts.get(id) ?? '').slice(0, depth)
    // No scores: who reranks what this index finds has no first stage of their own whose scores could be sent along.
    return { docIds: hits.map((hit) => String(hit.id)), scores: [] }
  }
  return new Map(ids.map((id) => [id, search(id)]))
}

/** So many of a list, from all over it. */
function spread<T>(list: readonly T[], count: number): T[] {
  if (list.length <= count) return [...list]
  return Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)] as T)
}
