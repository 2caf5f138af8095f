/**
 * Measures at the first start which batch shape this machine likes best with this model, and remembers it. What counts on
 * a CPU is the padded tokens of a call, not its pairs: measured with a MiniLM of 6 layers, calls of 256 to 512 tokens were
 * fastest whether they held eight pairs or one, because their activations stay in the caches.
 */
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import type { ModelFiles } from '../model/model.js'
import { defaultShape, type FixedShape, fixedShape, sessionCounts, shapeOf, tokenBudgets } from './batch-shape.js'
import type { Batch, BatchShape, EngineOptions } from './engine.js'
import { isBusy, keepShape, readShape, shapeFile } from './kept-shape.js'
import type { SessionProcess } from './session-process.js'

/** Lengths of the pairs measured with, in tokens: shorter and longer than the usual. */
const LENGTHS = [96, 192]
/** A larger batch, or more threads for one session, must be faster by this to be preferred. */
const TIE = 1.03
/** No further shape is tried after this. */
const TIME_LIMIT_MS = 1500
/** Runs of one batch, together. */
const ENOUGH_MS = 120

/** Starts the processes of a layout. */
export type StartSessions = (layout: Pick<BatchShape, 'sessions' | 'threadsPerSession'>) => Promise<SessionProcess[]>

interface ChosenShape {
  readonly shape: BatchShape
  /** Its processes, started. */
  readonly sessions: SessionProcess[]
  /** Where it was measured: how fast that was, and the file that says so. */
  readonly measured?: { readonly tokensPerSecond: number; readonly file: string }
}

/**
 * The shape that options, an earlier measurement, a measurement now or the defaults give; with its threads.
 *
 * @throws RankmillError `invalid_configuration`, and whatever starting threads throws
 */
export async function chooseShape(
  model: ModelFiles,
  options: EngineOptions,
  start: StartSessions,
): Promise<ChosenShape> {
  const fixed = fixedShape(options)
  const { size } = await stat(model.modelPath).catch((cause) => {
    throw new RankmillError('invalid_model', `${model.modelPath}: ${(cause as Error).message}`, {}, { cause })
  })
  const counts = sessionCounts(size, options, fixed)
  const budgets = tokenBudgets(options, fixed)
  const open = counts.length > 1 || budgets.length > 1
  const file = shapeFile(model, options, fixed)
  const known = open && options.calibrate ? await readShape(file, Date.now()) : undefined
  const usual = defaultShape(model, size, options, fixed)
  if (!open || !options.calibrate || known) {
    const shape = known?.shape ?? usual
    const measured = known ? { measured: { tokensPerSecond: known.tokensPerSecond, file } } : {}
    return { shape, sessions: await start(shape), ...measured }
  }
  const startedAt = performance.now()
  const busy = await isBusy()
  // On a busy machine small calls look good by chance, and cost the most: less than usual is not tried.
  const worthTrying = budgets.filter((tokens) => !busy || tokens >= usual.batchTokens)
  const { rate, ...chosen } = await measure(model, options, fixed, counts, worthTrying, start)
  const { sessions, batchTokens } = chosen.shape
  const ms = Math.round(performance.now() - startedAt)
  options.log.info({ sessions, batchTokens, busy, ms }, 'batch shape measured')
  const { device, threads } = options
  const measured = { shape: chosen.shape, tokensPerSecond: Math.round(rate), measuredAt: Date.now(), busy }
  await keepShape(file, { model: model.name, dtype: model.dtype, device, threads, ...measured })
  return { ...chosen, measured: { tokensPerSecond: measured.tokensPerSecond, file } }
}

async function measure(
  model: ModelFiles,
  options: EngineOptions,
  fixed: FixedShape,
  counts: readonly number[],
  budgets: readonly number[],
  start: StartSessions,
): Promise<ChosenShape & { rate: number }> {
  let best: (ChosenShape & { rate: number; budget: number }) | undefined
  let measuredMs = 0
  for (const sessions of counts) {
    const layout = shapeOf(model, options, fixed, sessions, budgets[0] ?? 0)
    const started = await start(layout)
    let climbing: { rate: number; budget: number } | undefined
    let worse = 0
    // More threads a call want larger calls: what was too small before need not be tried again.
    for (const budget of budgets.filter((tokens) => tokens >= (best?.budget ?? 0))) {
      if (climbing && measuredMs > TIME_LIMIT_MS) break
      const startedAt = performance.now()
      const rate = await tokensPerSecond(model, started, shapeOf(model, options, fixed, sessions, budget))
      measuredMs += performance.now() - startedAt
      if (!climbing || rate > climbing.rate * TIE) climbing = { rate, budget }
      // One bad measurement may be somebody else's work.
      else if (rate < climbing.rate / TIE && ++worse === 2) break
    }
    // Ties go to the layout tried first, the one with fewer threads a session: its calls do not wait for each other's
    // threads when the cores have other work, such as tokenising.
    if (climbing && (!best || climbing.rate > best.rate * TIE)) {
      await Promise.all(best?.sessions.map((session) => session.close()) ?? [])
      best = { ...climbing, sessions: started, shape: shapeOf(model, options, fixed, sessions, climbing.budget) }
    } else {
      await Promise.all(started.map((session) => session.close()))
    }
  }
  if (!best) throw new Error('nothing was measured')
  return { shape: best.shape, sessions: best.sessions, rate: best.rate }
}

/**
 * Padded tokens a second of all threads together; the harmonic mean over the lengths. Each thread is timed by itself,
 * because in real work none waits for another.
 */
async function tokensPerSecond(
  model: ModelFiles,
  threads: readonly SessionProcess[],
  shape: BatchShape,
): Promise<number> {
  let secondsPerToken = 0
  for (const wanted of LENGTHS) {
    const length = Math.min(wanted, model.maxTokens)
    const size = Math.max(1, Math.min(shape.batchPairs, Math.floor(shape.batchTokens / length)))
    const bestMs = threads.map(() => Number.POSITIVE_INFINITY)
    let spentMs = 0
    // What other processes do to a short run is averaged away by a few of them; a long run needs no second.
    for (let round = 0; round < 3 && spentMs < ENOUGH_MS; round++) {
      const outputs = await Promise.all(threads.map((thread) => thread.run(syntheticBatch(size, length))))
      outputs.forEach(({ inferenceMs }, i) => {
        bestMs[i] = Math.min(bestMs[i] ?? inferenceMs, inferenceMs)
      })
      spentMs += Math.max(...outputs.map(({ inferenceMs }) => inferenceMs))
    }
    secondsPerToken += 1 / bestMs.reduce((rate, ms) => rate + (size * length * 1000) / ms, 0)
  }
  return LENGTHS.length / secondsPerToken
}

/** Ids that every vocabulary has; what they say does not matter for the time they take. */
export function syntheticBatch(size: number, length: number): Batch {
  const inputIds = new BigInt64Array(size * length)
  for (let i = 0; i < inputIds.length; i++) inputIds[i] = BigInt(1 + (i % 90))
  return { size, length, inputIds, attentionMask: new BigInt64Array(size * length).fill(1n), tokenTypeIds: null }
}
