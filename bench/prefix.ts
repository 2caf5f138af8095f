/**
 * What is saved by reading once what all prompts of a request begin with: pairs a second of a causal model with and without,
 * through the worker's own batcher and processes, in one run and by turns.
 *
 *   npm run bench:prefix -- FOLDER [pairs]
 */
import { readFileSync } from 'node:fs'
import { resolveOptions } from '../shared/options.js'
import { Batcher } from '../worker/batching/batcher.js'
import type { InferenceEngine } from '../worker/inference/engine.js'
import { openModel } from '../worker/model/model.js'
import { modelSource } from '../worker/model-source.js'
import type { EncodedPair } from '../worker/tokenize/pair-encoder.js'
import { printConditions } from './conditions.js'

const [folder, count = '40'] = process.argv.slice(2)
if (folder === undefined) throw new Error('bench:prefix -- FOLDER [pairs]')
const given = { model: folder, logLevel: 'error', calibrate: false } as const
const options = resolveOptions({ ...given, prefixCacheMb: 4096 })
const { dtype, device, cacheDir } = options
const model = await openModel(folder, { dtype, device, cacheDir, allowHub: false })
const PAIRS = Number(count)
/** Tokens of what all prompts have, and of what is a document's own: a short and a long instruction, passages and pages. */
const SHAPES = [
  [80, 40],
  [80, 120],
  [80, 400],
  [250, 40],
  [250, 120],
  [250, 400],
] as const
const ROUNDS = 3

printConditions('a causal model with and without a kept prefix', { model: folder, dtype: model.dtype, pairs: PAIRS })
const reading = (mb: number) => modelSource(resolveOptions({ ...given, prefixCacheMb: mb })).createEngine(model)
const engine = await reading(4096)
console.log(`shape ${JSON.stringify(engine.shape)}`)
console.log('prefix  document   pairs/s whole  kept  times   CPU ms a pair whole   kept  times')
for (const [prefix, document] of SHAPES) {
  const best = { whole: [Infinity, Infinity], kept: [Infinity, Infinity] }
  for (let round = 0; round < ROUNDS; round++) {
    for (const way of ['whole', 'kept'] as const) {
      // Another prefix each time: what was kept of an earlier one is of no use.
      const pairs = pairsOf(prefix, document, 2 * round + (way === 'kept' ? 1 : 0), way === 'kept')
      const [ms, cpuMs] = await timed(engine, pairs)
      best[way] = [Math.min(best[way][0] ?? ms, ms), Math.min(best[way][1] ?? cpuMs, cpuMs)]
    }
  }
  const [ms = 0, cpu = 0, keptMs = 0, keptCpu = 0] = [...best.whole, ...best.kept].map((total) => total / PAIRS)
  const row = [prefix, document, 1000 / ms, 1000 / keptMs, ms / keptMs, cpu, keptCpu, cpu / keptCpu]
  console.log(
    row.map((value, i) => value.toFixed(i < 2 ? 0 : i < 4 ? 1 : i < 5 ? 2 : i < 7 ? 0 : 2).padStart(9)).join(' '),
  )
}
await engine.close()

/** Lengths of documents vary by a quarter around their mean, as they do in a request. */
function pairsOf(prefix: number, document: number, seed: number, kept: boolean): EncodedPair[] {
  return Array.from({ length: PAIRS }, (_, pair) => {
    const own = Math.round(document * (0.75 + (0.5 * ((pair * 7) % PAIRS)) / PAIRS))
    const ids = Int32Array.from({ length: prefix + own }, (_, i) =>
      i < prefix ? 1 + ((i * 3 + seed * 11) % 90) : 1 + ((i * 7 + pair * 13) % 90),
    )
    return { ids, secondStart: ids.length, truncated: false, ...(kept ? { prefix } : {}) }
  })
}

/** Time by the clock, and what the inference processes took of their cores, which other work on the machine moves less. */
async function timed(engine: InferenceEngine, pairs: readonly EncodedPair[]): Promise<[ms: number, cpuMs: number]> {
  const { padId } = model
  const limits = { padId, withTypes: false, maxEntryAgeMs: 1e9, now: Date.now, observe: () => undefined }
  const [startedAt, cpuBefore] = [performance.now(), cpuMs()]
  await new Batcher(engine, limits).score({
    pairs,
    priority: 0,
    deadlineAt: null,
    signal: new AbortController().signal,
  })
  return [performance.now() - startedAt, cpuMs() - cpuBefore]
}

/** Of this process's children, as Linux counts it, in hundredths of a second. */
function cpuMs(): number {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ')
  const ticks = children.map((pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return Number(fields[11]) + Number(fields[12])
  })
  return ticks.reduce((sum, own) => sum + own, 0) * 10
}
