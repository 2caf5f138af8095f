/**
 * A batch run end to end, with an engine that costs nothing: requests a second inline and by reference, against the bare
 * queue; the memory of runner, worker and Redis for files of different lengths; the time to go on after 1,000,000 lines.
 *
 *   npm run bench:batch [-- requests for the speeds] [lengths for the memory, divided by commas] [lines done]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { openBatch } from '../producer/batch/batch-file.js'
import type { BatchClient } from '../producer/batch/persistent-request.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import type { RerankResult } from '../shared/protocol/result.js'
import { infoField } from '../shared/redis/connection.js'
import { RerankWorker } from '../worker/worker.js'
import { bareQueue } from './bare-queue.js'
import { median, printConditions } from './conditions.js'
import { fakeSource } from './fake-source.js'

const CANDIDATES = 100
const PASSAGES = 20_000
const PASSAGE = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '
const ROUNDS = 3
const PREFIX = '{bench-batch}'
const SAMPLE_MS = 250

type Kind = 'inline' | 'reference'

function* requests(count: number, kind: Kind): Generator<RerankInput> {
  for (let i = 0; i < count; i++) {
    const at = (i * 37) % (PASSAGES - CANDIDATES)
    const places = Array.from({ length: CANDIDATES }, (_, k) => at + k)
    const documents =
      kind === 'inline' ? places.map(textOf) : { corpus: 'bench', ids: places.map((place) => `p${place}`) }
    yield { query: `what does passage ${i} say`, documents, topN: 10 }
  }
}

const textOf = (place: number) => `${place} ${PASSAGE.repeat(4)}`

async function writeInput(path: string, count: number, kind: Kind): Promise<void> {
  const file = createWriteStream(path)
  let i = 0
  for (const body of requests(count, kind)) {
    if (!file.write(`${JSON.stringify({ custom_id: `r${i++}`, body })}\n`)) await once(file, 'drain')
  }
  file.end()
  await once(file, 'close')
}

/** A process of this file, in a role. */
async function child(role: 'worker' | 'runner', redis: string): Promise<ChildProcess> {
  const env = { ...process.env, RANKMILL_REDIS: redis, RANKMILL_PREFIX: PREFIX, BENCH_ROLE: role }
  const started = fork(fileURLToPath(import.meta.url), { env })
  await once(started, 'message')
  return started
}

async function usageOf(process: ChildProcess): Promise<{ rss: number; cpuUs: number }> {
  process.send('usage')
  for (;;) {
    const [message] = await once(process, 'message')
    if (typeof message === 'object' && 'rss' in message) return message
  }
}

/** Processor time that Redis has used, in microseconds. */
async function cpuUsOf(redis: Redis): Promise<number> {
  const info = await redis.info('cpu')
  const seconds = ['used_cpu_user', 'used_cpu_sys'].map((name) => Number(infoField(info, name)))
  return 1e6 * seconds.reduce((sum, each) => sum + each, 0)
}

/** @returns seconds, from opening to the last line synced */
async function runIn(runner: ChildProcess, input: string, output: string): Promise<number> {
  runner.send({ input, output })
  for (;;) {
    const [message] = await once(runner, 'message')
    if (typeof message === 'object' && 'seconds' in message) return message.seconds as number
  }
}

async function speeds(redis: string, worker: ChildProcess, folder: string, count: number): Promise<void> {
  const runner = await child('runner', redis)
  const connection = new Redis(redis)
  const usage = async () => [(await usageOf(runner)).cpuUs, (await usageOf(worker)).cpuUs, await cpuUsOf(connection)]
  const costs: Record<Kind, number[][]> = { inline: [], reference: [] }
  const rates: Record<string, number[]> = { 'bare BullMQ, inline': [], inline: [], reference: [] }
  for (const kind of ['inline', 'reference'] as const) await writeInput(join(folder, kind), count, kind)
  const jobs = [...requests(count, 'inline')]
  for (let round = 0; round <= ROUNDS; round++) {
    const bare = await bareQueue(redis, jobs)
    if (round > 0) rates['bare BullMQ, inline']?.push(bare)
    for (const kind of ['inline', 'reference'] as const) {
      const before = await usage()
      const seconds = await runIn(runner, join(folder, kind), join(folder, `${kind}-${round}.out`))
      if (round === 0) continue
      rates[kind]?.push((count * CANDIDATES) / seconds)
      costs[kind].push((await usage()).map((us, i) => (us - (before[i] ?? 0)) / count))
    }
  }
  for (const [name, values] of Object.entries(rates)) {
    const pairs = median(values)
    console.log(
      `${name.padEnd(22)} median ${Math.round(pairs / CANDIDATES).toLocaleString('en')} requests/s, ` +
        `${Math.round(pairs).toLocaleString('en')} pairs/s  (${values.map((v) => Math.round(v)).join(', ')})`,
    )
  }
  for (const [kind, rounds] of Object.entries(costs)) {
    const parts = ['runner', 'worker', 'Redis'].map((name, i) => {
      return `${name} ${Math.round(median(rounds.map((us) => us[i] ?? 0)))}`
    })
    const all = median(rounds.map((us) => us.reduce((sum, each) => sum + each, 0)))
    console.log(`${kind.padEnd(22)} processor time a request, in us: ${parts.join(', ')}; together ${Math.round(all)}`)
  }
  connection.disconnect()
  runner.disconnect()
}

async function memory(redis: string, worker: ChildProcess, folder: string, length: number): Promise<void> {
  const input = join(folder, `memory-${length}`)
  await writeInput(input, length, 'reference')
  const runner = await child('runner', redis)
  const connection = new Redis(redis)
  const peak = { runner: 0, worker: 0, redis: 0 }
  let over = false
  const sampling = (async () => {
    while (!over) {
      const used = Number(/used_memory:(\d+)/.exec(await connection.info('memory'))?.[1])
      peak.runner = Math.max(peak.runner, (await usageOf(runner)).rss)
      peak.worker = Math.max(peak.worker, (await usageOf(worker)).rss)
      peak.redis = Math.max(peak.redis, used)
      await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS))
    }
  })()
  const seconds = await runIn(runner, input, join(folder, `memory-${length}.out`))
  over = true
  await sampling
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`
  console.log(
    `memory at ${length.toLocaleString('en').padStart(9)} requests: runner ${mib(peak.runner)}, worker ${mib(peak.worker)}, ` +
      `Redis ${mib(peak.redis)}; ${Math.round(length / seconds).toLocaleString('en')} requests/s`,
  )
  connection.disconnect()
  runner.disconnect()
}

/** Writes a run of so many lines, answered here, stops it short of the end, and times the next one to its first answer. */
async function resume(folder: string, lines: number): Promise<void> {
  const input = join(folder, 'resume')
  const output = join(folder, 'resume.out')
  const file = createWriteStream(input)
  for (let i = 0; i < lines + 100; i++) {
    const line = JSON.stringify({ custom_id: `request-${i}`, body: { query: 'q', documents: ['a', 'b'] } })
    if (!file.write(`${line}\n`)) await once(file, 'drain')
  }
  file.end()
  await once(file, 'close')
  const first = await openBatch({ input, output, options: { maxWindowRequests: 1000 } })
  await first.run(
    instantClient((place) => {
      if (place === lines) first.stop()
    }),
  )
  const startedAt = performance.now()
  let answeredAt = 0
  const second = await openBatch({ input, output })
  const report = await second.run(
    instantClient(() => {
      answeredAt ||= performance.now()
    }),
  )
  const { requests } = report.totals
  console.log(
    `going on after ${lines.toLocaleString('en')} lines: ${Math.round(answeredAt - startedAt)} ms to the first request (${requests} in the end)`,
  )
}

function instantClient(onAnswer: (place: number) => void): BatchClient {
  let place = 0
  const usage = { pairs: 2, scored: 2, cached: 0, prefiltered: 0, exited_early: 0, tokens: 6, truncated: 0 }
  const timings = { queued: 0, tokenize: 0, budget_wait: 0, batch_wait: 0, inference: 0, total: 1 }
  return {
    rerank: async ({ id = '' }): Promise<RerankResult> => {
      onAnswer(++place)
      const results = [
        { index: 1, relevance_score: 0.6180339887, scored_by: 'none' },
        { index: 0, relevance_score: 0.3819660113, scored_by: 'none' },
      ]
      return { id, model: 'none', dtype: 'fp32', fingerprint: 'none', results, usage, timings_ms: timings }
    },
    forget: async () => undefined,
    pinCorpus: async () => '1',
    releaseCorpus: async () => undefined,
    workers: async () => [{ appetite: 1000, loaded: [] }],
  }
}

const role = process.env['BENCH_ROLE']
if (role && process.send) {
  const send = process.send.bind(process)
  process.on('message', (message) => {
    const { user, system } = process.cpuUsage()
    if (message === 'usage') send({ rss: process.memoryUsage.rss(), cpuUs: user + system })
  })
  if (role === 'worker') {
    const options = resolveOptions({
      scoreCacheTtlMs: 0,
      metricsPort: 0,
      logLevel: 'error',
      corpusCacheBytes: 64_000_000,
    })
    const worker = await RerankWorker.start(options, fakeSource)
    process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
  } else {
    const client = new RerankClient()
    process.on('message', (message) => {
      if (typeof message !== 'object') return
      const startedAt = performance.now()
      openBatch(message as { input: string; output: string })
        .then((run) => run.run(client))
        .then(
          () => send({ seconds: (performance.now() - startedAt) / 1000 }),
          (error) => {
            throw error
          },
        )
    })
    process.on('disconnect', () => void client.close().then(() => process.exit(0)))
  }
  send('ready')
} else {
  const [count = '1000', lengths = '1000,10000,100000', lines = '1000000'] = process.argv.slice(2)
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-bench-'))
  const redis = await findOrStartRedis({ dataDir: '.rankmill/bench-redis', log: () => undefined, env: {} })
  try {
    printConditions('batch run, engine that costs nothing', { requests: count, candidates: CANDIDATES, rounds: ROUNDS })
    const client = new RerankClient({ redis: redis.url, prefix: PREFIX })
    await client.putCorpus(
      'bench',
      Array.from({ length: PASSAGES }, (_, i) => ({ id: `p${i}`, text: textOf(i) })),
    )
    const worker = await child('worker', redis.url)
    await speeds(redis.url, worker, folder, Number(count))
    for (const length of lengths.split(',')) await memory(redis.url, worker, folder, Number(length))
    await resume(folder, Number(lines))
    worker.disconnect()
    await client.close()
  } finally {
    await redis.stop()
    await rm(folder, { recursive: true, force: true })
  }
}
