/**
 * Measures at the first start which batch shape this machine likes best with this model, and remembers it. What counts on
 * a CPU is the padded tokens of a call, not its pairs: measured with a MiniLM of 6 layers, calls of 256 to 512 tokens were
 * fastest whether they held eight pairs or one, because their activations stay in the caches.
 */
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import { within } from '../../shared/lifecycle.js'
import type { ModelFiles } from '../model/model.js'
import { defaultShape, type FixedShape, fixedShape, sessionCounts, shapeOf, tokenBudgets } from './batch-shape.js'
import type { Batch, BatchShape, EngineOptions } from './engine.js'
import { isBusy, keepShape, readShape, shapeFile } from './kept-shape.js'
import type { SessionProcess } from './session-process.js'

/** Lengths of the pairs measured with, in tokens: shorter and longer than the usual. */
const LENGTHS = [96, 192]
/** A larger batch, or more threads for one session, must be faster by this to be preferred. */
const TIE = 1.03
/** On a CPU no further shape is tried after this: its best is seldom far from the usual. */
const CPU_ENOUGH_MS = 1500
/** No measurement goes on for longer, whatever the device; the option's default. */
const CALIBRATE_MS = 10_000
/** Runs of one batch, together. */
const ENOUGH_MS = 120
/** Of each session, as in real work: one runs, one is prepared. */
const CALLS_IN_FLIGHT = 2

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
  const { device, threads } = options
  const busy = device === 'cpu' && (await isBusy())
  // On a busy machine small calls look good by chance, and cost the most: less than usual is not tried.
  const worthTrying = budgets.filter((tokens) => !busy || tokens >= usual.batchTokens)
  const { rate, stopped, ...chosen } = await measure(model, options, fixed, counts, worthTrying, usual, start)
  const { sessions, batchTokens } = chosen.shape
  const ms = Math.round(performance.now() - startedAt)
  if (stopped) {
    const limit = { calibrateMs: options.calibrateMs ?? CALIBRATE_MS, measured: rate > 0 }
    options.log.warn({ sessions, batchTokens, ms, ...limit }, 'batch shape: its time was up, the best so far is taken')
  } else options.log.info({ sessions, batchTokens, busy, ms }, 'batch shape measured')
  // What was guessed is not worth remembering.
  if (rate === 0) return chosen
  const measured = { shape: chosen.shape, tokensPerSecond: Math.round(rate), measuredAt: Date.now(), busy }
  await keepShape(file, { model: model.name, dtype: model.dtype, device, threads, ...measured })
  return { ...chosen, measured: { tokensPerSecond: measured.tokensPerSecond, file } }
}

interface Measured extends ChosenShape {
  /** Padded tokens a second; 0: the time was up before anything was measured. */
  readonly rate: number
  /** Whether the time was up before all had been tried. */
  readonly stopped: boolean
}

async function measure(
  model: ModelFiles,
  options: EngineOptions,
  fixed: FixedShape,
  counts: readonly number[],
  budgets: readonly number[],
  usual: BatchShape,
  start: StartSessions,
): Promise<Measured> {
  const { device, calibrateMs = CALIBRATE_MS } = options
  const ratesOf = device === 'cpu' ? ownRates : sharedRate
  const usefulMs = device === 'cpu' ? CPU_ENOUGH_MS : calibrateMs
  let best: (ChosenShape & { rate: number; budget: number }) | undefined
  let [measuredMs, startMs, stopped] = [0, 0, false]
  // Counted from the first start on, which has to be waited for however long it takes.
  let endsAt = Number.POSITIVE_INFINITY
  let isOver = false
  for (const sessions of counts) {
    if (best && (isOver || performance.now() + startMs > endsAt)) {
      stopped = true
      break
    }
    const layout = shapeOf(model, options, fixed, sessions, budgets[0] ?? 0)
    const startedAt = performance.now()
    const started = await start(layout)
    startMs = performance.now() - startedAt
    endsAt = Math.min(endsAt, performance.now() + calibrateMs)
    let climbing: { rate: number; budget: number } | undefined
    let last: { budget: number; ms: number } | undefined
    let worse = 0
    // More threads a call want larger calls: what was too small before need not be tried again.
    for (const budget of budgets.filter((tokens) => tokens >= (best?.budget ?? 0))) {
      if (climbing && measuredMs > usefulMs) break
      const leftMs = endsAt - performance.now()
      // A larger call takes at most as much longer as it is larger.
      isOver = leftMs <= 0
      if (isOver || (last && (last.ms * budget) / last.budget > leftMs)) {
        stopped = true
        break
      }
      const began = performance.now()
      const shape = shapeOf(model, options, fixed, sessions, budget)
      const rate = await inTime(ratesOf(model, started, shape), leftMs).catch((error: unknown) => {
        if (!last) throw error
        return 'too large' as const
      })
      // Where smaller calls went well, a failure is one of size: memory, or a limit of the device.
      if (rate === 'too large') break
      if (rate === undefined) {
        // By the clock it may not be quite: timers end up to a millisecond early.
        isOver = true
        stopped = true
        break
      }
      last = { budget, ms: performance.now() - began }
      measuredMs += last.ms
      if (!climbing || rate > climbing.rate * TIE) {
        climbing = { rate, budget }
        continue
      }
      // One bad measurement may be somebody else's work.
      if (rate < climbing.rate / TIE && ++worse === 2) break
      // A session keeps the memory of its largest call: beyond the usual ones each has to pay.
      if (device === 'cpu' && budget > usual.batchTokens) break
    }
    // Nothing to go by: the smallest calls at least end soonest.
    if (!best) climbing ??= { rate: 0, budget: budgets[0] ?? 0 }
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
  return { shape: best.shape, sessions: best.sessions, rate: best.rate, stopped }
}

/** What the promise gives, or undefined where that takes longer: the call goes on, and what is sent after it waits. */
async function inTime<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  return (await within(promise, ms)) ? await promise : undefined
}

/**
 * Padded tokens a second of all sessions together; the harmonic mean over the lengths. Each session is timed by itself,
 * because in real work none waits for another.
 */
async function ownRates(model: ModelFiles, sessions: readonly SessionProcess[], shape: BatchShape): Promise<number> {
  return await overLengths(model, shape, async (size, length) => {
    const bestMs = sessions.map(() => Number.POSITIVE_INFINITY)
    let spentMs = 0
    // What other processes do to a short run is averaged away by a few of them; a long run needs no second.
    for (let round = 0; round < 3 && spentMs < ENOUGH_MS; round++) {
      const outputs = await Promise.all(sessions.map((session) => session.run(syntheticBatch(size, length))))
      outputs.forEach(({ inferenceMs }, i) => {
        bestMs[i] = Math.min(bestMs[i] ?? inferenceMs, inferenceMs)
      })
      spentMs += Math.max(...outputs.map(({ inferenceMs }) => inferenceMs))
    }
    return bestMs.reduce((rate, ms) => rate + (size * length * 1000) / ms, 0)
  })
}

/**
 * The same of sessions that share a device: by the clock, with as many calls under way as in real work, because what one
 * session spends on unpacking and copying another can use, and what one computes another waits for.
 */
async function sharedRate(model: ModelFiles, sessions: readonly SessionProcess[], shape: BatchShape): Promise<number> {
  return await overLengths(model, shape, async (size, length) => {
    const batch = syntheticBatch(size, length)
    const round = async (calls: number) => {
      const each = sessions.flatMap((session) => Array.from({ length: calls }, () => session.run(batch)))
      await Promise.all(each)
      return each.length
    }
    // The first call of a size makes its kernels and takes its memory.
    await round(1)
    const startedAt = performance.now()
    let calls = 0
    do calls += await round(CALLS_IN_FLIGHT)
    while (performance.now() - startedAt < ENOUGH_MS)
    return (calls * size * length * 1000) / (performance.now() - startedAt)
  })
}

/** The harmonic mean, over the lengths, of what `rate` gives for as many pairs as the shape takes. */
async function overLengths(
  { maxTokens }: ModelFiles,
  { batchPairs, batchTokens }: BatchShape,
  rate: (size: number, length: number) => Promise<number>,
): Promise<number> {
  let secondsPerToken = 0
  for (const wanted of LENGTHS) {
    const length = Math.min(wanted, maxTokens)
    const size = Math.max(1, Math.min(batchPairs, Math.floor(batchTokens / length)))
    secondsPerToken += 1 / (await rate(size, length))
  }
  return LENGTHS.length / secondsPerToken
}

/** Ids that every vocabulary has; what they say does not matter for the time they take. */
export function syntheticBatch(size: number, length: number): Batch {
  const inputIds = new BigInt64Array(size * length)
  for (let i = 0; i < inputIds.length; i++) inputIds[i] = BigInt(1 + (i % 90))
  return { size, length, inputIds, attentionMask: new BigInt64Array(size * length).fill(1n), tokenTypeIds: null }
}
