/** Whether judgements are about the queries and documents of a run at all. */
import type { Qrels } from './beir.js'
import type { TrecRun } from './trec-run.js'

/**
 * Judgements under other ids than the run's make every measure 0, which looks like a result.
 *
 * @returns what they do not share, with an id of each; undefined where they share queries and documents
 */
export function withoutOverlap(qrels: Qrels, run: TrecRun): string | undefined {
  const shared = [...qrels.keys()].filter((query) => run.has(query))
  if (shared.length === 0) return `judges none of the run's queries${examples(qrels.keys(), run.keys())}`
  const judged = new Set(shared.flatMap((query) => [...(qrels.get(query)?.keys() ?? [])]))
  const ranked = [...run.values()].flatMap(({ docIds }) => docIds)
  if (ranked.some((id) => judged.has(id))) return undefined
  return `judges none of the run's documents${examples(judged, ranked)}`
}

function examples(judged: Iterable<string>, ranked: Iterable<string>): string {
  const [[a], [b]] = [[...judged], [...ranked]]
  return a === undefined || b === undefined ? '' : `: it has ${JSON.stringify(a)}, the run ${JSON.stringify(b)}`
}
