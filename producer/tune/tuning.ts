/**
 * Finds the cheapest way to rerank that keeps the wanted quality, on the user's own queries. Successive halving (Jamieson
 * and Talwalkar, 2016): all configurations see a few queries, the better half sees twice as many, and so on; where time is
 * short, each round has its share of what is left, and ends with the query that is over it. Of each round all
 * configurations take turns at each query, so that a machine that is busy for a while is so for all of them.
 */
import { mean } from 'simple-statistics'
import { interval, resampledRatios } from './bootstrap.js'
import type { Configuration } from './configurations.js'
import { type Trial, type TuningClient, type TuningQuery, tryOut } from './trial.js'

export interface TuningOptions {
  /** Quality that may be lost, as a share of the first configuration's (0.01: one percent). */
  readonly within: number
  /** What is recommended keeps the quality in at least this share of the resamplings. */
  readonly sure: number
  /** Queries of the first round. */
  readonly firstQueries: number
  /** Time for measuring, loading the models included; a query that is begun is finished, in every configuration. */
  readonly maxMs: number
  readonly now: () => number
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
  readonly sure: number
  /** Fastest first: those that stayed to the end, and the first configuration of all. */
  readonly measured: readonly Measured[]
  /** Those that left before, on the queries they saw; fastest first. */
  readonly dropped: readonly Measured[]
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
  const { firstQueries, maxMs, now, signal, onProgress, within } = options
  const deadline = now() + maxMs
  const trials = new Map<Configuration, Trial[]>(configurations.map((configuration) => [configuration, []]))
  await warmUp(client, configurations, queries, signal)
  let left = others
  let next = 0
  for (let round = 1, until = firstQueries; next < queries.length; round++, until *= 2) {
    const rounds = 1 + Math.max(0, Math.ceil(Math.log2(queries.length / until)))
    const end = now() + (deadline - now()) / rounds
    const [from, to] = [next, Math.min(queries.length, until)]
    do {
      await tryAll(client, [first, ...left], queries[next], next, trials, signal)
      next++
      onProgress({ round, configurations: left.length + 1, queries: to - from, done: next - from })
    } while (next < to && now() < end)
    if (now() >= deadline) break
    if (next < queries.length) left = betterHalf(first, left, trials, within)
  }
  return outcomeOf(first, left, trials, queries, options)
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
  { within, sure }: Pick<TuningOptions, 'within' | 'sure'>,
): TuningOutcome {
  const depth = mean(queries.map(({ documents }) => documents.length))
  const measureAll = (configurations: readonly Configuration[]) =>
    configurations
      .map((each) => measure(each, trials.get(each) ?? [], trials.get(first) ?? [], depth, within))
      .sort((a, b) => b.candidatesPerSecond - a.candidatesPerSecond)
  const all = measureAll([first, ...left])
  const dropped = measureAll([...trials.keys()].filter((each) => each !== first && !left.includes(each)))
  const measured = all.map((m) => ({
    ...m,
    onFrontier: !all.some(
      (other) =>
        other.candidatesPerSecond >= m.candidatesPerSecond &&
        other.quality >= m.quality &&
        (other.candidatesPerSecond > m.candidatesPerSecond || other.quality > m.quality),
    ),
  }))
  const baseline = measured.find(({ configuration }) => configuration === first)
  const recommended = measured.find((m) => m === baseline || (m.qualityShare >= 1 - within && m.confidence >= sure))
  if (!baseline || !recommended) throw new RangeError('tune: nothing was measured')
  const measureName = queries.some(({ grades }) => grades) ? 'nDCG@10' : 'overlap@10 with the full order'
  return { measure: measureName, within, sure, measured, dropped, baseline, recommended }
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
