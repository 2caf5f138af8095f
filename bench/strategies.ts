/**
 * What each strategy gains and costs: rows of speed and nDCG@10 against rankmill-small in fp32 that scores everything,
 * through a real worker, query by query in turn, without caches (of scores, tokens or embeddings).
 *
 *   npm run bench:strategies [-- --queries N --seconds N] [FOLDER]
 *
 * Begins no further query after so many seconds. FOLDER holds BEIR's corpus.jsonl and queries.jsonl, qrels.tsv, and the first stage as bm25.trec.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { type Query, readCorpus, readQrels, readQueries } from '../producer/retrieval/beir.js'
import { ndcg } from '../producer/retrieval/measures.js'
import { readTrecRun } from '../producer/retrieval/trec-run.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/request.js'
import { readManifest } from '../worker/model/model-folder.js'
import { shippedFolder } from '../worker/model/model-reference.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'

const CANDIDATES = 100
const KEEP = 30
const [SMALL, NANO, FILTER] = ['rankmill-small', 'rankmill-nano', 'rankmill-filter']
const MEASURE = ndcg(10)

type Fields = Pick<RerankInput, 'strategy' | 'maxTokensPerDoc'>
interface Row extends Fields {
  readonly name: string
  readonly needs?: readonly string[]
}
interface Task {
  readonly query: string
  readonly documents: readonly { readonly id: string; readonly text: string }[]
  readonly grades: ReadonlyMap<string, number>
}
interface Figures {
  ms: number
  quality: number
  tokens: number
  /** Candidates that the request's model did not score. */
  skipped: number
}

const bm25 = { prefilter: { keep: KEEP, model: 'bm25' } }
const filter = { prefilter: { keep: KEEP, model: FILTER } }
const all = { keep: CANDIDATES, model: 'bm25' }
const cascade = [{ model: NANO, keep: KEEP }]
const ROWS: readonly Row[] = [
  { name: 'baseline: fp32, all' },
  { name: 'the same again' },
  { name: 'int8', strategy: { dtype: 'int8' } },
  { name: `bm25 keeps ${KEEP}`, strategy: bm25 },
  { name: `filter keeps ${KEEP}`, strategy: filter, needs: [FILTER] },
  { name: 'max_tokens_per_doc 128', maxTokensPerDoc: 128 },
  { name: 'windows', strategy: { long_documents: 'windows' } },
  { name: 'snippet', strategy: { long_documents: 'snippet' } },
  { name: 'snippet of 128', strategy: { long_documents: 'snippet' }, maxTokensPerDoc: 128 },
  { name: `cascade nano:${KEEP}`, strategy: { cascade }, needs: [NANO] },
  { name: 'fuse rrf, bm25', strategy: { prefilter: all, fuse: 'rrf' } },
  { name: 'fuse score 0.8, bm25', strategy: { prefilter: all, fuse: { weight: 0.8, by: 'score' } } },
  { name: 'fuse learned, bm25', strategy: { prefilter: all, fuse: 'learned' }, needs: [`${SMALL} + bm25`] },
  { name: `int8, bm25 keeps ${KEEP}`, strategy: { ...bm25, dtype: 'int8' } },
  { name: `int8, cascade nano:${KEEP}`, strategy: { cascade, dtype: 'int8' }, needs: [NANO] },
  {
    name: `int8, bm25 keeps 50, nano:20, score 0.8`,
    strategy: {
      dtype: 'int8',
      prefilter: { keep: 50, model: 'bm25' },
      cascade: [{ model: NANO, keep: 20 }],
      fuse: { weight: 0.8, by: 'score' },
    },
    needs: [NANO],
  },
]
const WARM = 'warm score cache'

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: { queries: { type: 'string', default: '20' }, seconds: { type: 'string', default: 'Infinity' } },
})
const [folder = '../shared/eval/cacm'] = positionals

/** Queries with judgements and candidates, so many of them, evenly taken. */
async function readTasks(most: number): Promise<Task[]> {
  const file = (name: string) => join(folder, name)
  const [run, qrels] = [await readTrecRun(file('bm25.trec')), await readQrels(file('qrels.tsv'))]
  const queries: Query[] = []
  for await (const query of readQueries(file('queries.jsonl')))
    if (qrels.has(query.id) && run.has(query.id)) queries.push(query)
  const count = Math.min(most, queries.length)
  const chosen = evenly(queries, count)
  const idsOf = ({ id }: Query) => (run.get(id)?.docIds ?? []).slice(0, CANDIDATES)
  const texts = new Map<string, string>()
  const only = new Set(chosen.flatMap(idsOf))
  for await (const { id, text } of readCorpus(file('corpus.jsonl'), { only })) texts.set(id, text)
  return chosen.map((query) => ({
    query: query.text,
    documents: idsOf(query).map((id) => ({ id, text: texts.get(id) ?? '' })),
    grades: qrels.get(query.id) ?? new Map<string, number>(),
  }))
}

function evenly<T>(list: readonly T[], count: number): T[] {
  return Array.from({ length: count }, (_, i) => list.slice(Math.floor((i * list.length) / count))[0]).filter(
    (one) => one !== undefined,
  )
}

/** Names of `needs` that are there: models, and a model with what it has learned weights for. */
async function present(): Promise<Set<string>> {
  const found = new Set<string>()
  for (const name of [SMALL, NANO, FILTER]) {
    const manifest = await readManifest(join(shippedFolder(), name)).catch(() => undefined)
    if (manifest) found.add(name)
    for (const first of Object.keys(manifest?.fusion?.weights ?? {})) found.add(`${name} + ${first}`)
  }
  return found
}

async function timed(client: RerankClient, { query, documents, grades }: Task, fields: Fields): Promise<Figures> {
  const startedAt = performance.now()
  const { strategy, maxTokensPerDoc } = fields
  const input = { query, documents, strategy, maxTokensPerDoc }
  const { results, usage } = await client.rerank(input, { timeoutMs: 600_000 })
  const ms = performance.now() - startedAt
  const order = results.map(({ id }) => id ?? '')
  const skipped = usage.prefiltered + (usage.cascaded ?? 0) + usage.exited_early
  return { ms, quality: MEASURE.of(order, grades), tokens: usage.tokens, skipped }
}

function print(name: string, each: readonly Figures[], baseline: readonly Figures[], candidates: number): void {
  const sum = (list: readonly Figures[], of: keyof Figures) => list.reduce((total, figures) => total + figures[of], 0)
  const quality = sum(each, 'quality') / each.length
  const cells = [
    name.padEnd(42),
    (sum(baseline, 'ms') / sum(each, 'ms')).toFixed(2).padStart(8),
    ((1000 * candidates) / sum(each, 'ms')).toFixed(1).padStart(13),
    quality.toFixed(4).padStart(8),
    `${((100 * sum(each, 'quality')) / sum(baseline, 'quality')).toFixed(1)} %`.padStart(8),
    `${((100 * sum(each, 'skipped')) / candidates).toFixed(0)} %`.padStart(8),
    `${((100 * sum(each, 'tokens')) / sum(baseline, 'tokens')).toFixed(0)} %`.padStart(7),
  ]
  console.log(cells.join(' '))
}

async function measure(tasks: readonly Task[], rows: readonly Row[], cold: RerankClient, warm: RerankClient) {
  const figures = new Map<string, Figures[]>([...rows.map(({ name }) => name), WARM].map((name) => [name, []]))
  let candidates = 0
  let queries = 0
  // Models load and are calibrated when they are first asked for.
  const [first] = tasks
  if (first) for (const row of rows) await timed(cold, { ...first, documents: first.documents.slice(0, 40) }, row)
  const end = performance.now() + 1000 * Number(given.seconds)
  for (const [q, task] of tasks.entries()) {
    if (q > 0 && performance.now() > end) break
    candidates += task.documents.length
    queries++
    // Each query begins with another row, so that a drift of the machine's speed meets all.
    const turn = rows.map((_, i) => rows[(i + q) % rows.length]).filter((row) => row !== undefined)
    for (const row of turn) figures.get(row.name)?.push(await timed(cold, task, row))
    await timed(warm, task, {})
    figures.get(WARM)?.push(await timed(warm, task, {}))
  }
  console.log(`# ${queries} queries done`)
  console.log(`${''.padEnd(42)}    speed  candidates/s  nDCG@10 of base  skipped  tokens`)
  const baseline = figures.get(rows[0]?.name ?? '') ?? []
  for (const [name, each] of figures) print(name, each, baseline, candidates)
}

async function main(): Promise<void> {
  if (!existsSync(join(folder, 'bm25.trec'))) {
    console.log(`# skipped: ${folder} has no bm25.trec`)
    return
  }
  const tasks = await readTasks(Number(given.queries))
  const there = await present()
  const rows = ROWS.filter(({ needs = [] }) => needs.every((name) => there.has(name)))
  for (const { name, needs = [] } of ROWS) {
    const missing = needs.filter((one) => !there.has(one))
    if (missing.length > 0) console.log(`# left out: "${name}", for there is no ${missing.join(', ')}`)
  }
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const common = { redis: redis.url, dtype: 'fp32', metricsPort: 0, logLevel: 'error', tokenCacheTokens: 0 } as const
  const model = [SMALL, NANO].filter((name) => there.has(name)).join(',')
  const prefix = '{bench-strategies}'
  const cold = resolveOptions({ ...common, model, prefix, scoreCacheTtlMs: 0, embeddingCacheBytes: 0 })
  const warm = resolveOptions({ ...common, model: SMALL, prefix: `${prefix}.warm` })
  const workers: RerankWorker[] = []
  for (const options of [cold, warm]) workers.push(await RerankWorker.start(options, modelSource(options)))
  const clients = [new RerankClient(cold), new RerankClient(warm)] as const
  printConditions('strategies against rankmill-small in fp32 that scores everything', {
    collection: folder,
    queries: tasks.length,
    candidates: CANDIDATES,
    models: model,
  })
  try {
    await measure(tasks, rows, ...clients)
    printConditions('at the end')
  } finally {
    for (const client of clients) await client.close()
    for (const worker of workers) await worker.close()
    await redis.stop()
  }
}

await main()
