/**
 * Finds the cheapest way to rerank that keeps the wanted quality, on the user's own queries. Successive halving (Jamieson
 * and Talwalkar, 2016): all configurations see a few queries, the better half sees twice as many, and so on. Of each round
 * all configurations take turns at each query, so that a machine that is busy for a while is so for all of them.
 */
import { mean } from 'simple-statistics'
import { interval, resampledRatios } from './bootstrap.js'
import type { Configuration } from './configurations.js'
import { type Trial, type TuningClient, type TuningQuery, tryOut } from './trial.js'

export interface TuningOptions {
  /** Quality that may be lost, as a share of the first configuration's (0.01: one percent). */
  readonly within: number
  /** Queries of the first round. */
  readonly firstQueries: number
  readonly signal: AbortSignal
  /** Told after each query of a round. */
  readonly onProgress: (done: TuningProgress) => void
}

export interface TuningProgress {
  readonly round: number
  readonly configurations: number
  readonly queries: number
  readonly done: number
}

export interface Measured {
  readonly configuration: Configuration
  readonly queries: number
  /** Mean over the queries. */
  readonly quality: number
  /** Of the first configuration's quality on the same queries. */
  readonly qualityShare: number
  /** 95 % of the resampled shares lie in it (paired bootstrap over queries). */
  readonly interval: readonly [low: number, high: number]
  /** Share of the resamples in which the quality is kept. */
  readonly confidence: number
  readonly candidatesPerSecond: number
  /** Candidates a second, of the first configuration's on the same queries. */
  readonly speedup: number
  readonly msPerRequest: number
  readonly tokensPerRequest: number
  /** Share of the candidates that the model did not score. */
  readonly skipped: number
  /** Nothing that was measured is both faster and better. */
  readonly onFrontier: boolean
}

export interface TuningOutcome {
  readonly measure: 'nDCG@10' | 'overlap@10 with the full order'
  readonly within: number
  /** Fastest first; the first configuration of all is among them. */
  readonly measured: readonly Measured[]
  readonly baseline: Measured
  readonly recommended: Measured
}

/** @throws RankmillError what a request ends with; the signal's reason */
export async function tune(
  client: TuningClient,
  configurations: readonly Configuration[],
  queries: readonly TuningQuery[],
  options: TuningOptions,
): Promise<TuningOutcome> {
  const [first, ...others] = configurations
  if (!first || queries.length === 0) throw new RangeError('tune: needs a configuration and a query')
  const trials = new Map<Configuration, Trial[]>(configurations.map((configuration) => [configuration, []]))
  await warmUp(client, configurations, queries, options.signal)
  let left = others
  let from = 0
  for (let round = 1, until = options.firstQueries; from < queries.length; round++, until *= 2) {
    const to = Math.min(queries.length, until)
    for (let place = from; place < to; place++) {
      await tryAll(client, [first, ...left], queries[place], place, trials, options.signal)
      options.onProgress({ round, configurations: left.length + 1, queries: to - from, done: place - from + 1 })
    }
    from = to
    if (from < queries.length) left = betterHalf(first, left, trials, options.within)
  }
  return outcomeOf(first, left, trials, queries, options.within)
}

/** Models are loaded, and batch shapes measured, by the first request that names them: that is no cost of the others. */
async function warmUp(
  client: TuningClient,
  configurations: readonly Configuration[],
  queries: readonly TuningQuery[],
  signal: AbortSignal,
): Promise<void> {
  const [query] = queries
  if (!query) return
  const few = { ...query, documents: query.documents.slice(0, 4) }
  for (const configuration of configurations) await tryOut(client, configuration, few, undefined, signal)
}

/** One query with every configuration; who begins changes from query to query. */
async function tryAll(
  client: TuningClient,
  [first, ...others]: readonly [Configuration, ...Configuration[]],
  query: TuningQuery | undefined,
  place: number,
  trials: ReadonlyMap<Configuration, Trial[]>,
  signal: AbortSignal,
): Promise<void> {
  if (!query) return
  const full = await tryOut(client, first, query, undefined, signal)
  trials.get(first)?.push(full)
  const start = others.length === 0 ? 0 : place % others.length
  for (const configuration of [...others.slice(start), ...others.slice(0, start)]) {
    trials.get(configuration)?.push(await tryOut(client, configuration, query, full.first, signal))
  }
}

/**
 * Those that may still be the recommendation first, the fastest before the others; then the best of the rest. Whoever is
 * surely too bad, by the upper end of its interval, goes in any case.
 */
function betterHalf(
  first: Configuration,
  others: readonly Configuration[],
  trials: ReadonlyMap<Configuration, Trial[]>,
  within: number,
): Configuration[] {
  const measured = others
    .map((configuration) => measure(configuration, trials.get(configuration) ?? [], trials.get(first) ?? [], 0, within))
    .filter(({ interval }) => interval[1] >= 1 - within)
  const keeps = (m: Measured) => m.qualityShare >= 1 - within
  measured.sort((a, b) => {
    if (keeps(a) !== keeps(b)) return keeps(a) ? -1 : 1
    return keeps(a) ? b.speedup - a.speedup : b.qualityShare - a.qualityShare
  })
  return measured.slice(0, Math.ceil(others.length / 2)).map(({ configuration }) => configuration)
}

function outcomeOf(
  first: Configuration,
  left: readonly Configuration[],
  trials: ReadonlyMap<Configuration, Trial[]>,
  queries: readonly TuningQuery[],
  within: number,
): TuningOutcome {
  const depth = mean(queries.map(({ documents }) => documents.length))
  const all = [first, ...left].map((configuration) =>
    measure(configuration, trials.get(configuration) ?? [], trials.get(first) ?? [], depth, within),
  )
  const measured = all
    .map((m) => ({
      ...m,
      onFrontier: !all.some(
        (other) =>
          other.candidatesPerSecond >= m.candidatesPerSecond &&
          other.quality >= m.quality &&
          (other.candidatesPerSecond > m.candidatesPerSecond || other.quality > m.quality),
      ),
    }))
    .sort((a, b) => b.candidatesPerSecond - a.candidatesPerSecond)
  const baseline = measured.find(({ configuration }) => configuration === first)
  const recommended = measured.find(({ qualityShare }) => qualityShare >= 1 - within)
  if (!baseline || !recommended) throw new RangeError('tune: nothing was measured')
  const measureName = queries.some(({ grades }) => grades) ? 'nDCG@10' : 'overlap@10 with the full order'
  return { measure: measureName, within, measured, baseline, recommended }
}

/** Over the queries that both have seen: the same ones, in the same order. */
function measure(
  configuration: Configuration,
  trials: readonly Trial[],
  firstTrials: readonly Trial[],
  depth: number,
  within: number,
): Measured {
  const base = firstTrials.slice(0, trials.length)
  const quality = mean(trials.map((trial) => trial.quality))
  const baseQuality = mean(base.map((trial) => trial.quality))
  const seconds = sum(trials, ({ ms }) => ms) / 1000
  const baseSeconds = sum(base, ({ ms }) => ms) / 1000
  const qualities = (list: readonly Trial[]) => list.map((trial) => trial.quality)
  const shares = resampledRatios([{ own: qualities(trials), base: qualities(base) }])
  return {
    configuration,
    queries: trials.length,
    quality,
    qualityShare: baseQuality === 0 ? 1 : quality / baseQuality,
    interval: interval(shares),
    confidence: shares.filter((value) => value >= 1 - within).length / shares.length,
    candidatesPerSecond: (trials.length * depth) / seconds,
    speedup: baseSeconds / seconds,
    msPerRequest: (seconds * 1000) / trials.length,
    tokensPerRequest: Math.round(sum(trials, ({ tokens }) => tokens) / trials.length),
    skipped: depth === 0 ? 0 : sum(trials, ({ skipped }) => skipped) / (trials.length * depth),
    onFrontier: false,
  }
}

function sum(trials: readonly Trial[], of: (trial: Trial) => number): number {
  return trials.reduce((total, trial) => total + of(trial), 0)
}
