/** Judged queries with their candidates, from folders with BEIR's corpus.jsonl and queries.jsonl, qrels.tsv and bm25.trec. */
import { existsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type Query, readCorpus, readQrels, readQueries } from '../producer/retrieval/beir.js'
import { readTrecRun } from '../producer/retrieval/trec-run.js'
import { seededRandom } from '../shared/random.js'

export interface JudgedQuery {
  readonly query: string
  /** The first stage's, best first. */
  readonly documents: readonly { readonly id: string; readonly text: string; readonly score: number }[]
  readonly grades: ReadonlyMap<string, number>
}

export interface Collection {
  readonly name: string
  readonly queries: readonly JudgedQuery[]
}

/** Measured by default, where they are. */
export const COLLECTIONS = ['../shared/eval/cacm', '../shared/eval/cranfield']

/** Collections of the folders that are there; says which are not. */
export async function readCollections(
  folders: readonly string[],
  queries: number,
  candidates: number,
): Promise<Collection[]> {
  const found: Collection[] = []
  for (const folder of folders) {
    if (existsSync(join(folder, 'bm25.trec'))) found.push(await readCollection(folder, queries, candidates))
    else console.log(`# skipped: ${folder} has no bm25.trec`)
  }
  return found
}

/** At most so many queries, in an order that is the same every time and of which any beginning is a sample. */
async function readCollection(folder: string, most: number, candidates: number): Promise<Collection> {
  const file = (name: string) => join(folder, name)
  const [run, qrels] = [await readTrecRun(file('bm25.trec')), await readQrels(file('qrels.tsv'))]
  const queries: Query[] = []
  for await (const query of readQueries(file('queries.jsonl')))
    if (qrels.has(query.id) && run.has(query.id)) queries.push(query)
  const chosen = shuffled(queries).slice(0, most)
  const idsOf = ({ id }: Query) => (run.get(id)?.docIds ?? []).slice(0, candidates)
  const scoreAt = ({ id }: Query, i: number) => run.get(id)?.scores[i] ?? 0
  const texts = new Map<string, string>()
  const only = new Set(chosen.flatMap(idsOf))
  for await (const { id, text } of readCorpus(file('corpus.jsonl'), { only })) texts.set(id, text)
  return {
    name: basename(folder),
    queries: chosen.map((query) => ({
      query: query.text,
      documents: idsOf(query).map((id, i) => ({ id, text: texts.get(id) ?? '', score: scoreAt(query, i) })),
      grades: qrels.get(query.id) ?? new Map<string, number>(),
    })),
  }
}

/** Fisher and Yates. */
function shuffled<T>(list: readonly T[]): T[] {
  const random = seededRandom(1)
  const order = [...list]
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    const [a, b] = [order[i], order[j]]
    if (a === undefined || b === undefined) continue
    order[i] = b
    order[j] = a
  }
  return order
}
