/**
 * A worker under continuous mixed load: interactive and bulk, small, split and long documents, prefilters, cascades, other
 * number formats, cancellations, deadlines, corpora. Prints its memory and descriptors over time, and says whether they are
 * flat: the median of the last third over that of the second (the first warms up; what is in hand comes and goes).
 *
 *   npm run bench:soak [-- minutes [requests a second]]
 *
 * With a rate, the load is the same however busy the machine is with other things; without one a window is kept full.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { RankmillError } from '../shared/errors.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { seededRandom } from '../shared/random.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'
import { columnsOf, HELD_HEADER, type Held, held, printColumns, printGrowth } from './growth.js'

const WINDOW = 24
const LOOKS = 30
const PASSAGES = 1000
const TEXT = 'The job that lost its worker is given to another one, and nobody waits for it. '
const settings = {
  model: 'm=test/fixtures/models/one-logit,n=test/fixtures/models/roberta',
  filter: 'f=test/fixtures/models/bi-encoder',
  prefix: '{bench-soak}',
  metricsPort: 0,
  logLevel: 'error',
} as const

/** Caches that are full before the first third has passed: while they fill, memory grows as it should. */
const SMALL_CACHES = {
  localScoreCacheEntries: 10_000,
  tokenCacheTokens: 100_000,
  embeddingCacheBytes: 1_000_000,
  corpusCacheBytes: 1_000_000,
} as const

if (process.send) {
  const own = { calibrate: false, threads: 1, sessions: 1, textThreads: 1, scoreCacheTtlMs: 60_000 }
  const options = resolveOptions({ ...settings, ...SMALL_CACHES, ...own })
  const worker = await RerankWorker.start(options, modelSource(options))
  process.send('ready')
  process.on('message', () => process.send?.(held()))
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const minutes = Number(process.argv[2] ?? 120)
  const perSecond = Number(process.argv[3] ?? Number.POSITIVE_INFINITY)
  const dataDir = '.rankmill/bench-redis'
  const redis = await findOrStartRedis({ dataDir, log: () => undefined, env: { PATH: process.env['PATH'] } })
  const worker = fork(fileURLToPath(import.meta.url), {
    env: { ...process.env, RANKMILL_REDIS: redis.url },
    execArgv: ['--expose-gc'],
  })
  await once(worker, 'message')
  const client = new RerankClient({ redis: redis.url, prefix: settings.prefix, resultTtlMs: 1000, maxJobPairs: 64 })
  await client.putCorpus('soak', passages())
  printConditions('a worker under mixed load', { minutes, window: WINDOW, perSecond })
  console.log(`minute  requests  ${HELD_HEADER}`)
  const began = performance.now()
  const until = began + minutes * 60_000
  const random = seededRandom(1)
  const counts: Record<string, number> = {}
  let asked = 0
  const producers = Array.from({ length: WINDOW }, async () => {
    while (performance.now() < until) {
      const number = asked++
      await delay(Math.max(0, began + (1000 * number) / perSecond - performance.now()))
      const outcome = await one(client, number, random)
      counts[outcome] = (counts[outcome] ?? 0) + 1
    }
  })
  const seen: Held[] = []
  for (let look = 1; look <= LOOKS; look++) {
    await delay((minutes * 60_000) / LOOKS)
    worker.send('look')
    const [now] = (await once(worker, 'message')) as [Held]
    seen.push(now)
    printColumns([(look * minutes) / LOOKS, asked, ...columnsOf(now)])
  }
  await Promise.all(producers)
  console.log(`outcomes: ${JSON.stringify(counts)}`)
  if (!printGrowth(seen)) process.exitCode = 1
  await client.close()
  worker.disconnect()
  await once(worker, 'exit')
  await redis.stop()
}

/** One request of the mixture, to its end. @returns how it ended */
async function one(client: RerankClient, number: number, random: () => number): Promise<string> {
  const input = request(number, random)
  try {
    if (number % 20 === 7) {
      const id = await client.submit({ ...input, id: `cancelled-${process.pid}-${number}` })
      await client.cancel(id)
      return 'cancelled'
    }
    await client.rerank(input)
    return 'completed'
  } catch (error) {
    return RankmillError.from(error).code
  }
}

function request(number: number, random: () => number): RerankInput {
  const count = (most: number) => 1 + Math.floor(random() * most)
  const texts = (length: number, repeats: number) =>
    Array.from({ length }, (_, i) => `${number} ${i} ${TEXT.repeat(count(repeats))}`)
  const query = `request ${number} about ${count(1000)}`
  const bulk = { query, model: 'm', priority: 500 }
  switch (number % 8) {
    case 0:
      return { ...bulk, documents: texts(200, 4) }
    case 1:
      return { query, model: 'm', documents: texts(60, 3), strategy: { prefilter: { model: 'f', keep: 20 } } }
    case 2:
      return { query, model: 'm', documents: texts(40, 3), strategy: { cascade: [{ model: 'n', keep: 10 }] } }
    case 3:
      return { query, model: 'm', documents: texts(4, 100), strategy: { long_documents: 'windows' } }
    case 4:
      return { ...bulk, documents: { corpus: 'soak', ids: texts(150, 1).map(() => `p${count(PASSAGES) - 1}`) } }
    case 5:
      return { query, model: 'm', documents: texts(20, 2), strategy: { dtype: 'fp16' } }
    case 6:
      return { query, model: 'n', documents: texts(20, 2), deadlineMs: count(3000) }
    default:
      return { query, model: 'm', documents: texts(count(30), 6), returnDocuments: true }
  }
}

function* passages() {
  for (let i = 0; i < PASSAGES; i++) yield { id: `p${i}`, text: `${i} ${TEXT.repeat(1 + (i % 5))}` }
}
