/**
 * Finds the cheapest way to rerank that keeps the wanted quality, on the user's own queries. Successive halving (Jamieson
 * and Talwalkar, 2016): all configurations see a few queries, the better half sees twice as many, and so on; where time is
 * short, each round has its share of what is left, and ends with the query that is over it. Of each round all
 * configurations take turns at each query, so that a machine that is busy for a while is so for all of them.
 */
import type { Configuration } from './configurations.js'
import { type Measured, measure } from './measured.js'
import { type Trial, type TuningClient, type TuningQuery, tryOut } from './trial.js'

export interface TuningOptions {
  /** Quality that may be lost, as a share of the first configuration's (0.01: one percent). */
  readonly within: number
  /** What is recommended keeps the quality in at least this share of the resamplings. */
  readonly sure: number
  /** Of fewer queries nothing is recommended but the first configuration: resampling them knows no query unlike them. */
  readonly minQueries: number
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

export interface TuningOutcome {
  readonly measure: 'nDCG@10' | 'overlap@10 with the full order'
  readonly within: number
  readonly sure: number
  readonly minQueries: number
  /** Fastest first: those that stayed to the end, and the first configuration of all. */
  readonly measured: readonly Measured[]
  /** Those that left before, on the queries they saw; fastest first. */
  readonly dropped: readonly Measured[]
  readonly baseline: Measured
  readonly recommended: Measured
  /** The fastest that kept the quality on these queries, where it is not sure enough to be recommended. */
  readonly probable?: Measured
}

/** A change of the order that counts as none: one of the first ten, in one of ten queries. */
const LEAST_CHANGE = 0.01

/** @throws RankmillError what a request ends with; the signal's reason */
export async function tune(
  client: TuningClient,
  configurations: readonly Configuration[],
  queries: readonly TuningQuery[],
  options: TuningOptions,
): Promise<TuningOutcome> {
  const [first, ...others] = configurations
  if (!first || queries.length === 0) throw new RangeError('tune: needs a configuration and a query')
  const { firstQueries, maxMs, now, signal, onProgress } = options
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
    if (next < queries.length) left = betterHalf(first, left, trials, options)
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
 * A half of the places is for those that gain most speed for what of the full order they give up: on few queries what is fast
 * is soon lucky, while what hardly changes the order cannot be far off, and must still be there when the luck ends. The
 * other half is for the fastest that keep the quality, then for the best. What would be recommended if this were the end
 * stays in any case; whoever is surely too bad, by the upper end of its interval, goes, once it has seen enough queries.
 */
function betterHalf(
  first: Configuration,
  others: readonly Configuration[],
  trials: ReadonlyMap<Configuration, Trial[]>,
  options: Pick<TuningOptions, 'within' | 'sure' | 'minQueries' | 'firstQueries'>,
): Configuration[] {
  const { within, firstQueries } = options
  const measured = others
    .map((configuration) => measure(configuration, trials.get(configuration) ?? [], trials.get(first) ?? [], within))
    .filter(({ interval, queries }) => queries < firstQueries || interval[1] >= 1 - within)
  const places = Math.ceil(others.length / 2)
  const gain = ({ speedup, overlap }: Measured) => Math.log(speedup) / (1 - overlap + LEAST_CHANGE)
  const [sure] = measured.filter((m) => isSure(m, options)).sort((a, b) => b.speedup - a.speedup)
  const closest = measured.sort((a, b) => gain(b) - gain(a)).slice(0, Math.ceil(places / 2))
  const keeps = (m: Measured) => m.qualityShare >= 1 - within
  const rest = measured.filter((m) => !closest.includes(m) && m !== sure)
  rest.sort((a, b) => {
    if (keeps(a) !== keeps(b)) return keeps(a) ? -1 : 1
    return keeps(a) ? b.speedup - a.speedup : b.qualityShare - a.qualityShare
  })
  const kept = new Set([...(sure ? [sure] : []), ...closest, ...rest])
  return [...kept].slice(0, places).map(({ configuration }) => configuration)
}

/** Whether the quality is kept, here and nearly always where the queries are drawn anew. */
function isSure(
  { queries, qualityShare, confidence }: Measured,
  { within, sure, minQueries }: Pick<TuningOptions, 'within' | 'sure' | 'minQueries'>,
): boolean {
  return queries >= minQueries && qualityShare >= 1 - within && confidence >= sure
}

function outcomeOf(
  first: Configuration,
  left: readonly Configuration[],
  trials: ReadonlyMap<Configuration, Trial[]>,
  queries: readonly TuningQuery[],
  options: Pick<TuningOptions, 'within' | 'sure' | 'minQueries'>,
): TuningOutcome {
  const { within, sure, minQueries } = options
  const measureAll = (configurations: readonly Configuration[]) =>
    configurations
      .map((each) => measure(each, trials.get(each) ?? [], trials.get(first) ?? [], within))
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
  const recommended = measured.find((m) => m === baseline || isSure(m, options))
  if (!baseline || !recommended) throw new RangeError('tune: nothing was measured')
  const measureName = queries.some(({ grades }) => grades) ? 'nDCG@10' : 'overlap@10 with the full order'
  const probable = measured.find((m) => m === recommended || m.qualityShare >= 1 - within)
  return {
    measure: measureName,
    within,
    sure,
    minQueries,
    measured,
    dropped,
    baseline,
    recommended,
    ...(probable && probable !== recommended ? { probable } : {}),
  }
}
