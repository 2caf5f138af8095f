/**
 * Whether what `rankmill tune` recommends on one collection holds on another: tunes on each, and tries the recommendation
 * on the next, beside the full model, query by query in turn.
 *
 *   npm run bench:tune [-- --within 0.01 --sure 0.95 --min-queries N --seconds N --queries N --candidates N --configurations N] [--json FILE] [DIR DIR…]
 *
 * DIR holds BEIR's corpus.jsonl and queries.jsonl, qrels.tsv, and the first stage as bm25.trec. --seconds bounds each tuning
 * and each trial; --json keeps every outcome, a line each.
 */
import { appendFile, rm } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { prepareTuning } from '../cli/tune-choices.js'
import { RerankClient } from '../producer/client.js'
import type { Measured } from '../producer/tune/measured.js'
import { type TuningOptions, type TuningOutcome, tune } from '../producer/tune/tuning.js'
import { type Options, resolveOptions } from '../shared/options.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { COLLECTIONS, type Collection, readCollections } from './collections.js'
import { printConditions } from './conditions.js'
import { FILTER, NANO, present, SMALL } from './strategy-rows.js'

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    within: { type: 'string', default: '0.01' },
    sure: { type: 'string', default: '0.95' },
    'min-queries': { type: 'string', default: '20' },
    seconds: { type: 'string', default: '600' },
    queries: { type: 'string', default: '60' },
    candidates: { type: 'string', default: '100' },
    configurations: { type: 'string', default: '60' },
    json: { type: 'string' },
  },
})
const [within, candidates] = [Number(given.within), Number(given.candidates)]

function tuningOptions(queries: number): TuningOptions {
  return {
    within,
    sure: Number(given.sure),
    minQueries: Number(given['min-queries']),
    firstQueries: Math.min(6, queries),
    maxMs: 1000 * Number(given.seconds),
    now: () => performance.now(),
    signal: new AbortController().signal,
    onProgress: ({ round, configurations, queries, done }) => {
      if (process.stderr.isTTY)
        process.stderr.write(`\rround ${round}: ${configurations} ways, query ${done} of ${queries}   `)
    },
  }
}

async function tuneOn({ queries }: Collection, options: Options, client: RerankClient): Promise<TuningOutcome> {
  const there = await present()
  const models = [SMALL, NANO].filter((name) => there.has(name))
  const filters = there.has(FILTER) ? [FILTER] : []
  const most = Number(given.configurations)
  const wanted = { models, filters, dtypes: ['fp32', 'int8'], depth: candidates, most } as const
  const { configurations } = await prepareTuning(options, wanted, queries)
  return await tune(client, configurations, queries, tuningOptions(queries.length))
}

/** The same way and the full model on other queries, none of which it was chosen by. */
async function tryOn({ queries }: Collection, { recommended, baseline }: TuningOutcome, client: RerankClient) {
  const both = [...new Set([baseline.configuration, recommended.configuration])]
  const { measured } = await tune(client, both, queries, {
    ...tuningOptions(queries.length),
    firstQueries: queries.length,
  })
  return measured.find(({ configuration }) => configuration === recommended.configuration)
}

function print(name: string, { qualityShare, interval, speedup, confidence, queries }: Measured): void {
  const [low, high] = interval.map(percent)
  console.log(
    `  ${name.padEnd(14)} ${percent(qualityShare)} of nDCG@10 (95 %: ${low} to ${high}), ${speedup.toFixed(2)} times, ` +
      `${percent(1 - within)} kept in ${percent(confidence)} of resamplings, ${queries} queries`,
  )
}

function verdict(own: Measured, other: Measured): string {
  const holds = other.qualityShare >= own.interval[0]
  const kept =
    other.qualityShare >= 1 - within ? 'is kept' : other.interval[1] >= 1 - within ? 'may be kept' : 'is lost'
  return `${holds ? 'holds' : 'does not hold'}: ${percent(other.qualityShare)} is ${holds ? 'not ' : ''}below ${percent(own.interval[0])}; the wanted ${percent(1 - within)} ${kept} there`
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

async function main(): Promise<void> {
  const folders = positionals.length > 0 ? positionals : COLLECTIONS
  const collections = await readCollections(folders, Number(given.queries), candidates)
  if (collections.length < 2) {
    console.log(`# skipped: two collections are needed, ${collections.length} found`)
    return
  }
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const options = resolveOptions({
    redis: redis.url,
    model: [SMALL, NANO].join(','),
    filter: FILTER,
    prefix: '{bench-tune}',
    scoreCacheTtlMs: 0,
    embeddingCacheBytes: 0,
    metricsPort: 0,
    logLevel: 'error',
  })
  const client = new RerankClient(options)
  let worker: RerankWorker | undefined
  try {
    worker = await RerankWorker.start(options, modelSource(options))
    if (given.json) await rm(given.json, { force: true })
    printConditions('recommendations of tune on other collections', { ...given })
    for (const [i, collection] of collections.entries()) {
      const other = collections[(i + 1) % collections.length] ?? collection
      const outcome = await tuneOn(collection, options, client)
      if (given.json) await appendFile(given.json, `${JSON.stringify({ collection: collection.name, ...outcome })}\n`)
      const { recommended } = outcome
      console.log(`\n${collection.name} -> ${other.name}: ${recommended.configuration.name}`)
      print(collection.name, recommended)
      const elsewhere = await tryOn(other, outcome, client)
      if (!elsewhere) continue
      print(other.name, elsewhere)
      console.log(`  ${verdict(recommended, elsewhere)}`)
    }
    printConditions('at the end')
  } finally {
    await client.close()
    await worker?.close()
    await redis.stop()
  }
}

await main()
