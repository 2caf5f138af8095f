/**
 * What a worker process does itself, beside its models: reads jobs, tokenises, forms batches, composes answers. The engine
 * costs nothing, every text is new, and no Redis takes part: pairs a second that one process could feed a fast card with, and
 * the processor time of a pair on the loop that renews locks and off it (threads for texts, garbage collection).
 *
 *   npm run bench:host [-- jobs] [numbers of text threads, divided by commas]
 */
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Redis } from 'ioredis'
import { WorkerMetrics } from '../monitoring/metrics.js'
import { partOf } from '../producer/split.js'
import { Corpora } from '../shared/corpus/corpora.js'
import { makeLogger } from '../shared/logger.js'
import { resolveOptions } from '../shared/options.js'
import { keysOf } from '../shared/protocol/keys.js'
import { parseRequest, requestSchema } from '../shared/protocol/request.js'
import { seededRandom } from '../shared/random.js'
import { completedEnd } from '../shared/redis/request-life.js'
import { PairBudget } from '../worker/batching/pair-budget.js'
import { FakeEngine } from '../worker/inference/fake-engine.js'
import { mergeParts, trimPart } from '../worker/pipeline/aggregate.js'
import { CorpusFolders } from '../worker/pipeline/corpus-folders.js'
import { EmbeddingCache } from '../worker/pipeline/embedding-cache.js'
import { CandidateLoader } from '../worker/pipeline/load-candidates.js'
import { readJob } from '../worker/pipeline/read-job.js'
import { ScoreCache } from '../worker/pipeline/score-cache.js'
import { ScoreFlights } from '../worker/pipeline/score-flights.js'
import { processJob, type Stages } from '../worker/process-job.js'
import { Scorers } from '../worker/scorers.js'
import { TextThreads } from '../worker/text/text-threads.js'
import { median, printConditions } from './conditions.js'
import { fakeSource } from './fake-source.js'

const CANDIDATES = 100
/** About 200 tokens of English prose. */
const WORDS = 140
const ROUNDS = 3
const CONCURRENCY = 64
const FOLDER = 'models/rankmill-small'

const [jobs = 100, threadCounts = '1,2'] = process.argv.slice(2).map((text, i) => (i === 0 ? Number(text) : text))
const random = seededRandom(18)
const words = (
  await Promise.all(
    ['bullmq', 'fastify', 'ioredis', 'prom-client'].map((name) => readFile(`node_modules/${name}/README.md`, 'utf8')),
  )
)
  .join('\n')
  .split(/\s+/)
  .filter((word) => /^[a-zA-Z',.;-]+$/.test(word))
const options = resolveOptions({ scoreCacheTtlMs: 0, maxInflightPairs: 100_000, logLevel: 'error' }, {})
const schema = requestSchema(options)

/** Jobs as they lie in Redis, no two texts alike. */
function jobTexts(count: number): string[] {
  const passage = () => Array.from({ length: WORDS }, () => words[Math.floor(random() * words.length)]).join(' ')
  return Array.from({ length: count }, (_, i) => {
    const documents = Array.from({ length: CANDIDATES }, passage)
    const request = parseRequest(
      { query: `what is said of ${passage().slice(0, 40)}`, documents, topN: 10 },
      schema,
      () => `host-${i}`,
    )
    const opened = { generation: 1, pool: 'fake', lane: 'bulk', parts: 1, submittedAt: 0, deadlineAt: null } as const
    return JSON.stringify(partOf(request, opened, 0))
  })
}

/** Processor time in ms, of this process' threads together and of the main one; the latter NaN where /proc does not tell. */
function cpuMs(): { all: number; main: number } {
  const { user, system } = process.cpuUsage()
  let main = Number.NaN
  try {
    main = Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
  } catch {
    // Not on Linux.
  }
  return { all: (user + system) / 1000, main }
}

async function measure(threads: number): Promise<void> {
  const now = Date.now
  const keys = keysOf('{bench-host}', 'rerank')
  // Inline texts and no cache: nothing is ever asked of it.
  const redis = { defineCommand: () => undefined } as unknown as Redis
  const shard = { index: 0, count: 1, redis, keys }
  const metrics = new WorkerMetrics(
    () => 0,
    () => true,
  )
  const model = { ...(await fakeSource.openModel('fake', 'auto')), folder: resolve(FOLDER) }
  const source = {
    ...fakeSource,
    openModel: async () => model,
    createEngine: async () => new FakeEngine(),
    openTexts: () => new TextThreads({ threads, maxAgeMs: 1000, taskTimeoutMs: 60_000, now }),
  }
  const embeddings = new EmbeddingCache([shard], options, now)
  const scorers = new Scorers(
    source,
    { ...options, model: 'fake' },
    embeddings,
    metrics,
    makeLogger('error', 'bench'),
    now,
  )
  const scorer = await scorers.get(null, 'auto')
  const stages: Stages = {
    loader: new CandidateLoader(new Corpora(redis, keys), new CorpusFolders(options.corpusRoot), 0, embeddings),
    ...{ scorers, metrics, now, flights: new ScoreFlights() },
    cache: new ScoreCache([shard], options),
    budget: new PairBudget({ pairs: options.maxInflightPairs, maxAgeMs: options.maxEntryAgeMs, now }),
  }
  const { signal } = new AbortController()
  let tokens = 0
  const run = async (text: string) => {
    const job = readJob(JSON.parse(text))
    const part = await processJob(job, scorer, stages, signal)
    tokens += part.usage.tokens
    return completedEnd(mergeParts(job, [trimPart(part, job.topN)], now()), 1).answer
  }
  const rounds: { rate: number; all: number; main: number }[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    const waiting = jobTexts(Number(jobs))
    const pairs = waiting.length * CANDIDATES
    tokens = 0
    const before = cpuMs()
    const startedAt = performance.now()
    const lane = async () => {
      for (let text = waiting.pop(); text; text = waiting.pop()) await run(text)
    }
    await Promise.all(Array.from({ length: CONCURRENCY }, lane))
    const seconds = (performance.now() - startedAt) / 1000
    const { all, main } = cpuMs()
    // The first warms up the compiler.
    if (round === 0) continue
    const perPair = 1000 / pairs
    rounds.push({ rate: pairs / seconds, all: (all - before.all) * perPair, main: (main - before.main) * perPair })
  }
  const of = (name: 'rate' | 'all' | 'main') => median(rounds.map((round) => round[name]))
  console.log(
    `${threads} text thread(s): ${Math.round(of('rate')).toLocaleString('en')} pairs/s; a pair of ${Math.round(tokens / Number(jobs) / CANDIDATES)} tokens ` +
      `takes ${of('main').toFixed(1)} us of the main thread, ${(of('all') - of('main')).toFixed(1)} us of the others`,
  )
  await scorers.close()
}

printConditions('worker process alone, engine that costs nothing, fresh texts', {
  jobs,
  candidates: CANDIDATES,
  concurrency: CONCURRENCY,
  rounds: ROUNDS,
})
for (const threads of String(threadCounts).split(',').map(Number)) await measure(threads)
