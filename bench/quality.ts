/**
 * Ranking quality of the models that ship: reranks BM25's first 100 and prints nDCG@10, MRR@10 and MAP.
 *
 *     npm run bench:quality -- [--models small,nano,filter] [--dtypes int8,fp32] [--queries N] FOLDER…
 *
 * A folder holds BEIR's corpus.jsonl and queries.jsonl, qrels.tsv and the first stage as bm25.trec. training/evaluate.py prints
 * the same rows, and also that of all-MiniLM-L6-v2; it keeps scores, and its figures are those of the model cards.
 */
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { env } from 'onnxruntime-node'
import { AVERAGE_PRECISION, mrr, ndcg } from '../producer/retrieval/measures.js'
import { type Manifest, readManifest } from '../worker/model/model-folder.js'
import { shippedFolder } from '../worker/model/model-reference.js'
import { type Collection, readCollections } from './collections.js'
import { printConditions } from './conditions.js'
import { type Scorer, scorerOf } from './quality-scorer.js'

const CANDIDATES = 100
const MEASURES = [ndcg(10), mrr(10), AVERAGE_PRECISION]
/** Of reciprocal rank fusion, as a prefilter of several has it. */
const K = 60

const { values: options, positionals: folders } = parseArgs({
  allowPositionals: true,
  options: {
    models: { type: 'string', default: 'filter,nano,small' },
    dtypes: { type: 'string', default: 'int8,fp32' },
    queries: { type: 'string', default: '1000000' },
  },
})

/** Of each query, of each candidate. */
type Scores = readonly (readonly number[])[]

/** Places of a list's entries, best first; ties stay in the first stage's order. */
function orderOf(scores: readonly number[]): number[] {
  return scores.map((_, i) => i).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
}

function print({ name, queries }: Collection, row: string, scores: Scores): void {
  const rankings = queries.map(({ documents }, i) =>
    orderOf(scores[i] ?? []).map((place) => documents[place]?.id ?? ''),
  )
  const means = MEASURES.map(({ name: measure, of }) => {
    const values = queries.map(({ grades }, i) => of(rankings[i] ?? [], grades))
    return `${measure} ${(values.reduce((sum, value) => sum + value, 0) / values.length).toFixed(4)}`
  })
  console.log(`${name.padEnd(14)} ${row.padEnd(44)} ${means.join('  ')}`)
}

function standard(scores: readonly number[]): number[] {
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
  return scores.map((score) => (score - mean) / (deviation + 1e-9))
}

/** z(model) + weight * z(first stage), as rankmill.json says. */
function fused(model: readonly number[], first: readonly number[], weight: number): number[] {
  const [a, b] = [standard(model), standard(first)]
  return a.map((score, i) => score + weight * (b[i] ?? 0))
}

/** Several first stages by their ranks. */
function ranksFused(lists: readonly (readonly number[])[]): number[] {
  const [first = []] = lists
  const places = lists.map((scores) => new Map(orderOf(scores).map((entry, place) => [entry, place])))
  return first.map((_, i) =>
    places.reduce((sum, place) => sum + (K + 1) / (K + 1 + (place.get(i) ?? 0)) / lists.length, 0),
  )
}

async function openScorers(): Promise<[Manifest, string, Scorer][]> {
  const scorers: [Manifest, string, Scorer][] = []
  for (const name of options.models.split(',')) {
    const folder = join(shippedFolder(), `rankmill-${name}`)
    const manifest = await readManifest(folder)
    if (!manifest) {
      console.log(`# skipped: ${folder} has no rankmill.json`)
      continue
    }
    for (const dtype of options.dtypes.split(','))
      scorers.push([manifest, dtype, await scorerOf(folder, manifest, dtype)])
  }
  return scorers
}

/** [exits][queries][candidates] */
async function scoresOf({ queries }: Collection, scorer: Scorer): Promise<Scores[]> {
  const lists: number[][][] = []
  for (const { query, documents } of queries)
    lists.push(
      await scorer.score(
        query,
        documents.map(({ text }) => text),
      ),
    )
  return scorer.labels.map((_, exit) => lists.map((list) => list[exit] ?? []))
}

async function main(): Promise<void> {
  env.logLevel = 'fatal'
  printConditions('ranking quality, BM25 first', { models: options.models, dtypes: options.dtypes })
  if (folders.length === 0) console.log('# skipped: no collection named')
  const scorers = await openScorers()
  for (const collection of await readCollections(folders, Number(options.queries), CANDIDATES)) {
    const bm25 = collection.queries.map(({ documents }) => documents.map(({ score }) => score))
    const firsts = new Map<string, Scores>([['bm25', bm25]])
    print(collection, `BM25, ${collection.queries.length} queries`, bm25)
    for (const [manifest, dtype, scorer] of scorers) {
      const exits = await scoresOf(collection, scorer)
      exits.forEach((scores, exit) => {
        print(collection, `${manifest.name} ${dtype}${scorer.labels[exit]}`, scores)
      })
      const last = exits.at(-1) ?? []
      if (manifest.kind === 'bi-encoder') {
        firsts.set(manifest.name, last)
        firsts.set(
          `bm25+${manifest.name}`,
          last.map((list, i) => ranksFused([bm25[i] ?? [], list])),
        )
      }
      for (const [first, weight] of Object.entries(manifest.fusion?.weights ?? {})) {
        const theirs = firsts.get(first)
        const scores = last.map((list, i) => fused(list, theirs?.[i] ?? [], weight))
        if (theirs) print(collection, `${manifest.name} ${dtype} + ${weight} ${first}`, scores)
      }
    }
  }
}

await main()
