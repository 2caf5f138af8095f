/**
 * Ranking quality of the models that ship: reranks BM25's first candidates and prints nDCG@10, MRR@10 and MAP.
 *
 *     npm run bench:quality -- [--models small,nano,filter] [--dtypes int8,fp32] [--queries N] FOLDER…
 *
 * A folder holds BEIR's corpus.jsonl and queries.jsonl, qrels.tsv and the first stage as bm25.trec. training/evaluate.py prints
 * the same rows, and also that of all-MiniLM-L6-v2; it keeps scores, and its figures are those of the model cards.
 */
import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { env } from 'onnxruntime-node'
import { type Manifest, readManifest } from '../worker/model/model-folder.js'
import { shippedFolder } from '../worker/model/model-reference.js'
import { printConditions } from './conditions.js'
import { type Scorer, scorerOf } from './quality-scorer.js'

interface Candidate {
  readonly id: string
  readonly text: string
  readonly score: number
}
interface Task {
  readonly query: string
  readonly candidates: readonly Candidate[]
  readonly grades: ReadonlyMap<string, number>
}

const { values: options, positionals: folders } = parseArgs({
  allowPositionals: true,
  options: {
    models: { type: 'string', default: 'filter,nano,small' },
    dtypes: { type: 'string', default: 'int8,fp32' },
    queries: { type: 'string', default: '1000000' },
  },
})

function linesOf(file: string): string[] {
  return readFileSync(file, 'utf8').trim().split('\n')
}

/** Queries with judgements, at most `most` of them, evenly taken. */
function readTasks(folder: string, most: number): Task[] {
  const textOf = (name: string) =>
    new Map(
      linesOf(join(folder, name)).map((line) => {
        const { _id: id, title, text } = JSON.parse(line) as { _id: string; title?: string; text: string }
        return [id, `${title ?? ''} ${text}`.trim()] as const
      }),
    )
  const [corpus, queries] = [textOf('corpus.jsonl'), textOf('queries.jsonl')]
  const grades = new Map<string, Map<string, number>>()
  for (const line of linesOf(join(folder, 'qrels.tsv')).slice(1)) {
    const [query = '', document = '', grade] = line.split('\t')
    grades.set(query, (grades.get(query) ?? new Map<string, number>()).set(document, Number(grade)))
  }
  const runs = new Map<string, Candidate[]>()
  for (const line of linesOf(join(folder, 'bm25.trec'))) {
    const [query = '', , id = '', , score] = line.split(/\s+/)
    if (!grades.has(query)) continue
    const run = runs.get(query) ?? []
    run.push({ id, text: corpus.get(id) ?? '', score: Number(score) })
    runs.set(query, run)
  }
  const all = [...runs].map(([id, candidates]) => ({
    query: queries.get(id) ?? '',
    candidates,
    grades: grades.get(id) ?? new Map<string, number>(),
  }))
  const count = Math.min(most, all.length)
  return Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)]).filter((task) => !!task)
}

function gain(grades: readonly number[]): number {
  return grades.slice(0, 10).reduce((sum, grade, i) => sum + grade / Math.log2(i + 2), 0)
}

/** nDCG@10, MRR@10 and average precision of a list in the order of its scores; ties stay in the first stage's order. */
function measures({ candidates, grades }: Task, scores: readonly number[]): number[] {
  const order = scores.map((_, i) => i).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
  const found = order.map((i) => Math.max(0, grades.get(candidates[i]?.id ?? '') ?? 0))
  const ideal = gain([...grades.values()].sort((a, b) => b - a))
  const hits = found.flatMap((grade, i) => (grade > 0 ? [i] : []))
  const relevant = [...grades.values()].filter((grade) => grade > 0).length
  const first = hits[0] ?? 10
  const precision = hits.reduce((sum, at, i) => sum + (i + 1) / (at + 1), 0)
  return [
    ideal > 0 ? gain(found) / ideal : 0,
    first < 10 ? 1 / (first + 1) : 0,
    relevant > 0 ? precision / relevant : 0,
  ]
}

function note(collection: string, row: string, tasks: readonly Task[], scores: readonly (readonly number[])[]): void {
  const each = tasks.map((task, i) => measures(task, scores[i] ?? []))
  const means = [0, 1, 2].map((m) => each.reduce((sum, values) => sum + (values[m] ?? 0), 0) / each.length)
  const [ndcg, mrr, map] = means.map((mean) => mean.toFixed(4))
  console.log(`${collection.padEnd(14)} ${row.padEnd(40)} nDCG@10 ${ndcg}  MRR@10 ${mrr}  MAP ${map}`)
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

async function main(): Promise<void> {
  env.logLevel = 'fatal'
  printConditions('ranking quality, BM25 first', { models: options.models, dtypes: options.dtypes })
  if (folders.length === 0) console.log('# skipped: no collection named')
  const scorers = await openScorers()
  for (const folder of folders) {
    if (!existsSync(join(folder, 'bm25.trec'))) {
      console.log(`# skipped: ${folder} has no bm25.trec`)
      continue
    }
    const [collection, tasks] = [basename(folder), readTasks(folder, Number(options.queries))]
    const firsts = new Map([['bm25', tasks.map(({ candidates }) => candidates.map(({ score }) => score))]])
    note(collection, `BM25, ${tasks.length} queries`, tasks, firsts.get('bm25') ?? [])
    for (const [manifest, dtype, scorer] of scorers) {
      const lists: number[][][] = []
      for (const { query, candidates } of tasks)
        lists.push(
          await scorer.score(
            query,
            candidates.map(({ text }) => text),
          ),
        )
      for (const [exit, label] of scorer.labels.entries())
        note(
          collection,
          `${manifest.name} ${dtype}${label}`,
          tasks,
          lists.map((list) => list[exit] ?? []),
        )
      const last = lists.map((list) => list.at(-1) ?? [])
      if (manifest.kind === 'bi-encoder') firsts.set(manifest.name, last)
      for (const [first, weight] of Object.entries(manifest.fusion?.weights ?? {})) {
        const theirs = firsts.get(first)
        const scores = last.map((list, i) => fused(list, theirs?.[i] ?? [], weight))
        if (theirs) note(collection, `${manifest.name} ${dtype} + ${weight} ${first}`, tasks, scores)
      }
    }
  }
}

await main()
