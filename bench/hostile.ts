/**
 * What texts and jobs that are made to hold up a worker do to it: how late its event loop, which renews the locks of jobs,
 * comes to its timers, and its memory, over what the job itself takes. The last line is an urgent request beside a large one.
 *
 *   npm run bench:hostile [-- part of a case's name]
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { printConditions } from './conditions.js'

const RESOLUTION_MS = 5
const PROSE = 'The job that lost its worker is given to another one, and nobody waits. '
const settings = {
  model: 'test/fixtures/models/one-logit',
  prefix: '{bench-hostile}',
  metricsPort: 0,
  logLevel: 'error',
} as const

const list = (count: number, text: (i: number) => string) => Array.from({ length: count }, (_, i) => text(i))
const filled = (unit: string, length: number) => unit.repeat(Math.ceil(length / unit.length)).slice(0, length)
const keep = (count: number) => ({ keep: count, model: 'bm25' })
const CASES: Readonly<Record<string, Omit<RerankInput, 'query'> & { query?: string }>> = {
  'ordinary: 100 documents of 430 bytes': { documents: list(100, () => PROSE.repeat(6)) },
  'snippet: 4 x 300 kB of short sentences': {
    documents: list(4, () => filled('A b. C d! ', 300_000)),
    strategy: { long_documents: 'snippet' },
  },
  'snippet: 1 MB of prose': { documents: [filled(PROSE, 1_000_000)], strategy: { long_documents: 'snippet' } },
  'windows: 4 x 1 MB without spaces': {
    documents: list(4, (i) => filled(`x${i}yz`, 1_000_000)),
    strategy: { long_documents: 'windows' },
  },
  'windows: 10,000 documents of 3.6 kB': {
    documents: list(10_000, (i) => `${i} ${PROSE.repeat(50)}`),
    strategy: { long_documents: 'windows', prefilter: keep(9999) },
  },
  'bm25: 5,000 passages, 5,000 query terms': {
    query: list(5000, (i) => `t${i}`).join(' '),
    documents: list(5000, (i) => `t${i} t${(i * 7) % 5000} ${PROSE}`),
    strategy: { prefilter: keep(1) },
  },
  'truncate: 4 x 1 MB of one word': { documents: list(4, () => filled('é', 500_000)) },
}

interface Seen {
  readonly p99: number
  readonly max: number
  readonly before: number
  readonly peak: number
}

if (process.send) {
  const options = resolveOptions({ ...settings, scoreCacheTtlMs: 0, calibrate: false, sessions: 1, threads: 1 })
  const worker = await RerankWorker.start(options, modelSource(options))
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  delay.enable()
  let [before, peak] = [0, 0]
  setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 20).unref()
  process.on('message', (message) => {
    if (message === 'begin') {
      delay.reset()
      before = process.memoryUsage.rss()
      peak = before
      process.send?.('begun')
    } else {
      const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - RESOLUTION_MS)
      process.send?.({ p99: late(delay.percentile(99)), max: late(delay.max), before, peak } satisfies Seen)
    }
  })
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
  process.send('ready')
} else {
  const redis = await findOrStartRedis({
    dataDir: '.rankmill/bench-redis',
    log: () => undefined,
    env: { PATH: process.env['PATH'] },
  })
  const worker = fork(fileURLToPath(import.meta.url), { env: { ...process.env, RANKMILL_REDIS: redis.url } })
  const told = async (message?: string) => {
    if (message) worker.send(message)
    return (await once(worker, 'message'))[0] as unknown
  }
  await told()
  const client = new RerankClient({ redis: redis.url, prefix: settings.prefix, maxJobPairs: 100_000 })
  printConditions('hostile texts and jobs, a tiny model, one session of one thread', {})
  const [wanted = ''] = process.argv.slice(2)
  for (const [name, input] of Object.entries(CASES)) {
    if (!name.includes(wanted)) continue
    await told('begin')
    const { timings_ms } = await client.rerank({ query: 'job worker', ...input })
    const { p99, max, before, peak } = (await told('end')) as Seen
    const memory = `+${Math.round((peak - before) / 2 ** 20)} MiB`
    console.log(
      `${name.padEnd(42)} late p99 ${p99.toFixed(0).padStart(3)} ms, most ${max.toFixed(0).padStart(3)} ms  ` +
        `${memory.padStart(9)}  ${Math.round(timings_ms.total)} ms`,
    )
  }
  const query = 'job worker'
  const alone = await client.rerank({ query, documents: [PROSE], strategy: {} })
  const large = await client.submit({ query, documents: list(6000, (i) => `${i} ${PROSE.repeat(6)}`), priority: 400 })
  while ((await client.status(large)).state === 'waiting') await new Promise((resolve) => setTimeout(resolve, 5))
  const beside = await client.rerank({ query, documents: [`beside ${PROSE}`] })
  const whole = await client.result(large)
  const ms = [alone, beside, whole].map(({ timings_ms }) => Math.round(timings_ms.total))
  console.log(`one document alone ${ms[0]} ms, beside 6,000 of priority 400 ${ms[1]} ms; those ${ms[2]} ms`)
  await client.close()
  worker.disconnect()
  await once(worker, 'exit')
  await redis.stop()
}
