/**
 * What is saved by reading once what all prompts of a request begin with: pairs a second of a causal model with and without,
 * through the worker's own batcher and processes, in one run and by turns.
 *
 *   npm run bench:prefix -- FOLDER [pairs]
 */
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
const ROUNDS = 5

printConditions('a causal model with and without a kept prefix', { model: folder, dtype: model.dtype, pairs: PAIRS })
const reading = (mb: number) => modelSource(resolveOptions({ ...given, prefixCacheMb: mb })).createEngine(model)
const engine = await reading(4096)
console.log(`shape ${JSON.stringify(engine.shape)}`)
console.log('prefix  document   whole pairs/s   kept pairs/s   times')
for (const [prefix, document] of SHAPES) {
  const best = { whole: Number.POSITIVE_INFINITY, kept: Number.POSITIVE_INFINITY }
  for (let round = 0; round < ROUNDS; round++) {
    // Another prefix each round: what was kept of an earlier one is of no use.
    best.whole = Math.min(best.whole, await timed(engine, pairsOf(prefix, document, 2 * round, false)))
    best.kept = Math.min(best.kept, await timed(engine, pairsOf(prefix, document, 2 * round + 1, true)))
  }
  const [whole, kept] = [PAIRS / best.whole, PAIRS / best.kept].map((rate) => rate * 1000) as [number, number]
  const cells = [String(prefix).padStart(6), String(document).padStart(9), whole.toFixed(1).padStart(15)]
  console.log([...cells, kept.toFixed(1).padStart(14), (kept / whole).toFixed(2).padStart(7)].join(' '))
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

async function timed(engine: InferenceEngine, pairs: readonly EncodedPair[]): Promise<number> {
  const { padId } = model
  const limits = { padId, withTypes: false, maxEntryAgeMs: 1e9, now: Date.now, observe: () => undefined }
  const startedAt = performance.now()
  await new Batcher(engine, limits).score({
    pairs,
    priority: 0,
    deadlineAt: null,
    signal: new AbortController().signal,
  })
  return performance.now() - startedAt
}
