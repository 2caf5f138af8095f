/**
 * What leaving the model early gains and costs: the same requests with `strategy.exit` never, by confidence and after each
 * exit, in turn in the same run, through client, Redis and worker. Prints pairs a second, how many left, and how many of the
 * whole model's first ten are among the first ten.
 *
 *     npm run bench:exits -- [--model small] [--dtype int8] [--queries 20] [--rounds 3] [FOLDER]
 *
 * FOLDER holds BEIR's corpus.jsonl and queries.jsonl and a first stage as bm25.trec (training/.cache/heldout, which
 * training/collection.py writes); without one, the passages of `rankmill demo`.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { packagesFolder, readPassages } from '../cli/demo/passages.js'
import { QUESTIONS } from '../cli/demo/questions.js'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { RerankClient } from '../producer/client.js'
import { type Options, resolveOptions } from '../shared/options.js'
import type { RerankInput } from '../shared/protocol/request.js'
import type { RerankResult } from '../shared/protocol/result.js'
import { modelSource } from '../worker/model-source.js'
import { RerankWorker } from '../worker/worker.js'
import { median, printConditions } from './conditions.js'

const CANDIDATES = 100
const TOP = 10
const CONFIDENCES = [0.9, 0.95, 0.99]

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string', default: 'small' },
    dtype: { type: 'string', default: 'auto' },
    queries: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '3' },
  },
})
type Exit = NonNullable<NonNullable<RerankInput['strategy']>['exit']>

function readLists(folder: string): RerankInput[] {
  const lines = (name: string) => readFileSync(join(folder, name), 'utf8').trim().split('\n')
  const textsOf = (name: string) =>
    new Map(
      lines(name).map((line) => {
        const { _id: id, title, text } = JSON.parse(line) as { _id: string; title?: string; text: string }
        return [id, `${title ?? ''} ${text}`.trim()] as const
      }),
    )
  const [corpus, queries] = [textsOf('corpus.jsonl'), textsOf('queries.jsonl')]
  const lists = new Map<string, string[]>()
  for (const line of lines('bm25.trec')) {
    const [query = '', , document = ''] = line.split(/\s+/)
    const list = lists.get(query) ?? []
    list.push(corpus.get(document) ?? '')
    lists.set(query, list)
  }
  return [...lists].map(([id, documents]) => ({ query: queries.get(id) ?? '', documents }))
}

async function demoLists(): Promise<RerankInput[]> {
  const passages = await readPassages(packagesFolder())
  return QUESTIONS.map((query, q) => ({
    query,
    documents: Array.from({ length: CANDIDATES }, (_, i) => passages[(q * 997 + i * 31) % passages.length]?.text ?? ''),
  }))
}

const [folder] = positionals
const lists = (folder === undefined ? await demoLists() : readLists(folder)).slice(0, Number(flags.queries))
const pairs = lists.reduce((sum, { documents }) => sum + (documents as unknown[]).length, 0)
const redis = await findOrStartRedis({
  dataDir: '.rankmill/bench-redis',
  log: () => undefined,
  env: { PATH: process.env['PATH'] },
})
const options = resolveOptions({
  model: flags.model,
  dtype: flags.dtype as Options['dtype'],
  redis: redis.url,
  prefix: '{bench-exits}',
  scoreCacheTtlMs: 0,
  metricsPort: 0,
  logLevel: 'error',
})
const source = modelSource(options)
const model = await source.openModel(flags.model, options.dtype)
const early = model.exits.slice(0, -1)
const offered = CONFIDENCES.filter((wanted) =>
  early.every(({ margins }) => margins.some(({ confidence }) => confidence >= wanted)),
)
if (early.length === 0) throw new Error(`${model.name} has no exits in ${model.dtype}`)
const modes: [string, Exit][] = [
  ['never', 'never'],
  ...offered.map((confidence): [string, Exit] => [`confidence ${confidence}`, { confidence }]),
  ...early.map(({ layer }): [string, Exit] => [`after:${layer}`, `after:${layer}`]),
]
const worker = await RerankWorker.start(options, source)
const client = new RerankClient({ redis: redis.url, prefix: options.prefix })
printConditions('early exits', {
  model: model.name,
  dtype: model.dtype,
  lists: folder ?? 'demo passages',
  requests: lists.length,
  pairs,
  topN: TOP,
  exits: model.exits.map(({ layer, calibration, margins }) => ({ layer, calibration, margins })),
})

async function measure(exit: Exit): Promise<{ rate: number; cpuMs: number; results: RerankResult[] }> {
  const requests = lists.map((list) => ({ ...list, topN: TOP, strategy: { exit } }))
  const results = new Array<RerankResult>(lists.length)
  const startedAt = performance.now()
  const cpu = process.cpuUsage()
  for await (const { position, result, error } of client.rerankAll(requests, { window: 6 })) {
    if (error) throw error
    if (result) results[position] = result
  }
  const { user, system } = process.cpuUsage(cpu)
  return { rate: pairs / ((performance.now() - startedAt) / 1000), cpuMs: (user + system) / 1000 / pairs, results }
}

const rates = modes.map((): number[] => [])
const cpus = modes.map((): number[] => [])
let last: RerankResult[][] = []
// The first round loads the stages and is not counted.
for (let round = 0; round <= Number(flags.rounds); round++) {
  const found: RerankResult[][] = []
  for (const [m, [, exit]] of modes.entries()) {
    const { rate, cpuMs, results } = await measure(exit)
    if (round > 0) rates[m]?.push(rate)
    if (round > 0) cpus[m]?.push(cpuMs)
    found.push(results)
  }
  last = found
}
const cpuOf = (m: number) => median(cpus[m] ?? [])
const truth = (last[0] ?? []).map(({ results }) => new Set(results.map(({ index }) => index)))
const whole = median(rates[0] ?? [])
console.log('exit              pairs/s   times never   CPU ms a pair   of never   left early   of the first ten')
const wholeCpu = median(cpus[0] ?? [])
for (const [m, [name]] of modes.entries()) {
  const results = last[m] ?? []
  const rate = median(rates[m] ?? [])
  const left = results.reduce((sum, { usage }) => sum + usage.exited_early, 0) / pairs
  const same = results.map(
    (result, i) => result.results.filter(({ index }) => truth[i]?.has(index)).length / (truth[i]?.size || 1),
  )
  const agreement = same.reduce((a, b) => a + b, 0) / Math.max(1, same.length)
  console.log(
    `${name.padEnd(16)} ${rate.toFixed(1).padStart(8)} ${(rate / whole).toFixed(2).padStart(13)}` +
      ` ${cpuOf(m).toFixed(2).padStart(15)} ${(cpuOf(m) / wholeCpu).toFixed(3).padStart(10)}` +
      ` ${`${(100 * left).toFixed(1)} %`.padStart(12)} ${`${(100 * agreement).toFixed(1)} %`.padStart(18)}`,
  )
}
await client.close()
await worker.close()
await redis.stop()
