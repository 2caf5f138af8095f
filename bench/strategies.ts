/**
 * What each strategy gains and costs: rows of speed and nDCG@10 against rankmill-small in fp32 that scores everything,
 * through a real worker, without caches (of scores, tokens or embeddings). Each query is asked in every way in turn, so that
 * whatever else the machine does meets all ways alike.
 *
 *   npm run bench:strategies [-- --collections DIR,DIR --queries N --seconds N --rows 'int8; int8 bm25:15']
 *
 * --collections: folders with BEIR's corpus.jsonl and queries.jsonl, qrels.tsv, and the first stage as bm25.trec.
 * --seconds: no further query of a collection is begun after so long. --window: requests in flight (1). --candidates: of a query (100).
 * --rows, --also: instead of, or besides, the usual ways; bench/strategy-rows.ts says how they are written. --rows leaves out
 * the warm score cache too, unless --warm asks for it.
 */
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { embedNamed } from '../cli/commands/corpus-embed.js'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { ndcg } from '../producer/retrieval/measures.js'
import { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import { type Options, resolveOptions } from '../shared/options.js'
import { keysOf } from '../shared/protocol/keys.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { COLLECTIONS, type Collection, type JudgedQuery, readCollections } from './collections.js'
import { printConditions } from './conditions.js'
import { FILTER, NANO, present, ROWS, type Row, rowOf, SMALL } from './strategy-rows.js'
import { type Figures, printAims, printTable, type Tables } from './strategy-table.js'

/** Of a query, for each way before what counts. */
const WARM_UP_CANDIDATES = 8
const BASE = 'fp32'
const WARM = 'warm score cache'
const MEASURE = ndcg(10)
const PLAIN: Way = { fields: {}, isEmbedded: false }

const { values: given } = parseArgs({
  options: {
    collections: { type: 'string', default: COLLECTIONS.join(',') },
    queries: { type: 'string', default: '50' },
    seconds: { type: 'string', default: '600' },
    candidates: { type: 'string', default: '100' },
    window: { type: 'string', default: '1' },
    rows: { type: 'string', default: ROWS.join(';') },
    also: { type: 'string', default: '' },
    warm: { type: 'boolean', default: false },
  },
})

const withWarm = given.warm || given.rows === ROWS.join(';')

/** The wanted rows of which all is there, the baseline first. */
async function rowsWanted(): Promise<Row[]> {
  const names = [BASE, ...`${given.rows};${given.also}`.split(';').map((name) => name.trim())].filter(Boolean)
  const [rows, there] = [[...new Set(names)].map(rowOf), await present()]
  for (const { name, needs } of rows) {
    const missing = needs.filter((one) => !there.has(one))
    if (missing.length > 0) console.log(`# left out: "${name}", for there is no ${missing.join(', ')}`)
  }
  return rows.filter(({ needs }) => needs.every((one) => there.has(one)))
}

/** What of a row says how to ask. */
type Way = Pick<Row, 'fields' | 'isEmbedded'>

/** Some queries at once, in one way; the documents of embedded rows are those of a corpus. */
async function ask(client: RerankClient, corpus: string, block: readonly JudgedQuery[], way: Way): Promise<Figures[]> {
  const startedAt = performance.now()
  const results = await Promise.all(
    block.map(({ query, documents }) => {
      const named = { corpus, ids: documents.map(({ id }) => id), scores: documents.map(({ score }) => score) }
      const request = { query, documents: way.isEmbedded ? named : documents, ...way.fields }
      return client.rerank(request, { timeoutMs: 600_000 })
    }),
  )
  const ms = (performance.now() - startedAt) / block.length
  return results.map(({ results, usage }, i) => ({
    ms,
    quality: MEASURE.of(
      results.map(({ id }) => id ?? ''),
      block[i]?.grades ?? new Map(),
    ),
    candidates: usage.pairs,
    tokens: usage.tokens,
    filtered: usage.prefiltered,
    cascaded: usage.cascaded ?? 0,
    left: usage.exited_early,
  }))
}

async function measure({ name, queries }: Collection, rows: readonly Row[], cold: RerankClient, warm: RerankClient) {
  const figures = new Map<string, Figures[]>(
    [...rows.map((row) => row.name), ...(withWarm ? [WARM] : [])].map((row) => [row, []]),
  )
  const [first] = queries
  // Models load and are calibrated when they are first asked for.
  if (first)
    for (const row of rows)
      await ask(cold, name, [{ ...first, documents: first.documents.slice(0, WARM_UP_CANDIDATES) }], row)
  const window = Math.max(1, Number(given.window))
  const end = performance.now() + 1000 * Number(given.seconds)
  let done = 0
  for (; done < queries.length && (done === 0 || performance.now() < end); done += window) {
    const block = queries.slice(done, done + window)
    // Each time another way comes first.
    const turn = rows.map((_, i) => rows[(i + done / window) % rows.length]).filter((row) => row !== undefined)
    for (const row of turn) figures.get(row.name)?.push(...(await ask(cold, name, block, row)))
    if (!withWarm) continue
    await ask(warm, name, block, PLAIN)
    figures.get(WARM)?.push(...(await ask(warm, name, block, PLAIN)))
  }
  console.log(`# ${name}: ${Math.min(done, queries.length)} queries done`)
  return figures
}

/** Stores the candidates as a corpus, and their embeddings with them. */
async function store({ name, queries }: Collection, client: RerankClient, options: Options): Promise<void> {
  const passages = new Map(queries.flatMap(({ documents }) => documents.map((document) => [document.id, document])))
  await client.putCorpus(name, passages.values())
  const redis = new Redis(options.redis)
  try {
    const place = new CorpusShelves([{ redis, keys: keysOf(options.prefix, options.queue) }])
    const signal = new AbortController().signal
    await embedNamed(place, name, FILTER, { ...options, dtype: 'auto' }, { onProgress: () => undefined, signal })
  } finally {
    redis.disconnect()
  }
}

async function main(): Promise<void> {
  const candidates = Number(given.candidates)
  const collections = await readCollections(given.collections.split(','), Number(given.queries), candidates)
  if (collections.length === 0) return
  const rows = await rowsWanted()
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const there = await present()
  const common = { redis: redis.url, dtype: BASE, metricsPort: 0, logLevel: 'error', tokenCacheTokens: 0 } as const
  const model = [SMALL, NANO].filter((name) => there.has(name)).join(',')
  const prefix = '{bench-strategies}'
  const cold = resolveOptions({
    ...common,
    model,
    filter: FILTER,
    prefix,
    scoreCacheTtlMs: 0,
    embeddingCacheBytes: 0,
    embeddingCacheTtlMs: 0,
  })
  const warm = resolveOptions({ ...common, model: SMALL, prefix: `${prefix}.warm` })
  const workers: RerankWorker[] = []
  const clients = [cold, warm].map((options) => new RerankClient(options))
  try {
    for (const options of [cold, warm]) workers.push(await RerankWorker.start(options, modelSource(options)))
    printConditions('strategies against rankmill-small in fp32 that scores everything', {
      collections: Object.fromEntries(collections.map(({ name, queries }) => [name, `${queries.length} queries`])),
      candidates,
      'requests in flight': Number(given.window),
      models: model,
    })
    const tables: Tables = new Map()
    for (const collection of collections) {
      const [coldClient, warmClient] = clients
      if (!coldClient || !warmClient) return
      if (rows.some(({ isEmbedded }) => isEmbedded)) await store(collection, coldClient, cold)
      const figures = await measure(collection, rows, coldClient, warmClient)
      tables.set(collection.name, figures)
      printTable(collection.name, [figures], BASE)
    }
    if (tables.size > 1) printTable('together, each collection counting the same', [...tables.values()], BASE)
    printAims([...tables.values()], BASE, WARM)
    printConditions('at the end')
  } finally {
    for (const client of clients) await client.close()
    for (const worker of workers) await worker.close()
    await redis.stop()
  }
}

await main()
