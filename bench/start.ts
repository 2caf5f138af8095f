/**
 * How soon a worker that is started answers, and what it holds: `rankmill worker` from its start to the answer of a request
 * that waited for it, with a cache folder that is empty (the batch shape is measured) and again (it is known), by the clock
 * and in processor time of its whole process tree; then its memory, and that after 100 pairs of 180 tokens. Linux only.
 *
 *   npm run bench:start [-- models, divided by commas] [rounds] [flags of the worker]
 *
 * Files lie in the page cache from the first start on. Pages that the worker shares with other Node processes, this one too,
 * are shared out in PSS: it is a little less than what the worker would have alone.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { listShapes } from '../worker/inference/kept-shape.js'
import { median, printConditions } from './conditions.js'
import { type TreeMemory, treeMemory, treeUse } from './peers/process-tree.js'

const MAIN = fileURLToPath(new URL('../cli/main.js', import.meta.url))
const WAIT_MS = 300_000
const PAIRS = 100
const QUERY = 'what does a cross-encoder read'
const PASSAGE = 'A cross-encoder reads the query and the document together, so it ranks far better than embeddings do. '
/** Makes 180 tokens of a pair. */
const LONG = PASSAGE.repeat(7).slice(0, 655)
const MIB = 2 ** 20

interface Started {
  readonly seconds: number
  readonly cpuSeconds: number
  readonly first: TreeMemory
  readonly after: TreeMemory
  /** Of the long pairs. */
  readonly tokens: number
  readonly dtype: string
  /** Sessions, threads of each, and tokens of a call. */
  readonly shape: string
}

const [models = 'rankmill-nano,rankmill-small', rounds = '5', ...more] = process.argv.slice(2)
const redis = await findOrStartRedis({
  dataDir: '.rankmill/bench-redis',
  log: () => undefined,
  env: { PATH: process.env['PATH'] },
})
let starts = 0
printConditions("a worker's start and memory", { rounds, flags: more.join(' ') || 'none' })
const cells = [
  'model',
  'dtype',
  'batch shape (sessions x threads, tokens)',
  'first answer, s',
  'processor, s',
  'MiB then: PSS, RSS, private',
]
console.log(`| ${[...cells, `after ${PAIRS} pairs`].join(' | ')} |`)
console.log(`|${' --- |'.repeat(cells.length + 1)}`)
try {
  for (const model of models.split(',')) await measure(model)
} finally {
  await redis.stop()
}

async function measure(model: string): Promise<void> {
  const seen: Record<'measured' | 'known', Started[]> = { measured: [], known: [] }
  for (let round = 0; round < Number(rounds); round++) {
    const cacheDir = mkdtempSync(join(tmpdir(), 'rankmill-start-'))
    try {
      for (const shape of ['measured', 'known'] as const) seen[shape].push(await start(model, cacheDir))
    } finally {
      rmSync(cacheDir, { recursive: true, force: true })
    }
  }
  for (const [shape, list] of Object.entries(seen)) {
    const range = (of: (one: Started) => number) => {
      const values = list.map(of)
      return `${median(values).toFixed(2)} (${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)})`
    }
    const memory = (of: (one: Started) => TreeMemory) =>
      (['pss', 'rss', 'private'] as const)
        .map((what) => Math.round(median(list.map((one) => of(one)[what])) / MIB))
        .join(', ')
    const { dtype = '', tokens = 0 } = list[0] ?? {}
    const shapes = [...new Set(list.map((one) => one.shape))].join('; ')
    const row = [model, dtype, `${shape} (${shapes})`, range((one) => one.seconds), range((one) => one.cpuSeconds)]
    row.push(
      memory((one) => one.first),
      `${memory((one) => one.after)} (${tokens} tokens a pair)`,
    )
    console.log(`| ${row.join(' | ')} |`)
  }
}

async function start(model: string, cacheDir: string): Promise<Started> {
  const prefix = `{bench-start-${process.pid}-${starts++}}`
  const client = new RerankClient({ redis: redis.url, prefix, waitTimeoutMs: WAIT_MS, logLevel: 'error' })
  let worker: ChildProcess | undefined
  try {
    const id = await client.submit({ query: QUERY, documents: [PASSAGE], model })
    const flags = { model, redis: redis.url, prefix, 'cache-dir': cacheDir, 'metrics-port': '0', 'log-level': 'error' }
    const given = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])
    const startedAt = performance.now()
    worker = spawn(process.execPath, [MAIN, 'worker', ...given, ...more], { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    worker.stderr?.on('data', (text) => {
      said += text
    })
    const pid = worker.pid ?? 0
    const ended = once(worker, 'close').then(([code, signal]) => {
      throw new Error(`the worker ended: ${signal ?? code}\n${said}`)
    })
    ended.catch(() => undefined)
    const { dtype } = await Promise.race([client.result(id), ended])
    const seconds = (performance.now() - startedAt) / 1000
    const { cpuSeconds } = treeUse(pid)
    const first = treeMemory(pid)
    const documents = Array.from({ length: PAIRS }, (_, i) => `${i} ${LONG}`)
    const { usage } = await client.rerank({ query: QUERY, documents, model })
    const after = treeMemory(pid)
    const [kept] = await listShapes(cacheDir)
    const { sessions = 0, threadsPerSession = 0, batchTokens = 0 } = kept?.shape ?? {}
    const shape = `${sessions} x ${threadsPerSession}, ${batchTokens}`
    return { seconds, cpuSeconds, first, after, tokens: Math.round(usage.tokens / PAIRS), dtype, shape }
  } finally {
    await client.close()
    if (worker && worker.exitCode === null && worker.signalCode === null) {
      worker.kill()
      await once(worker, 'close')
    }
  }
}
