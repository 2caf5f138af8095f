/** Libraries on the same lists, in turn, round by round; then, one by one, what their scores are worth and how long one waits. */
import { sampleRankCorrelation } from 'simple-statistics'
import type { Collection } from '../collections.js'
import { median, percentile } from '../conditions.js'
import type { Peer, Workshop } from './environments.js'
import { rangeOf } from './http-race.js'
import { firstScores, listsOf, meanNdcg } from './judged-lists.js'
import { arrivals, latencies } from './load.js'
import type { List } from './peer-lines.js'
import { Runner, type Scored } from './runner.js'

const REFERENCE = 'st-torch'
/** Of the pairs a second of the slowest: what each is asked for where latency counts. */
const SHARE = 0.7

export interface LibraryRaceOptions {
  readonly threads: number
  readonly rounds: number
  readonly collections: readonly Collection[]
  /** Of latency; 0: it is not measured. */
  readonly requests: number
}

interface Entrant {
  readonly runner: Runner
  readonly rounds: Scored[]
}

/** @param request a new one each time */
export async function raceLibraries(
  peers: readonly Peer[],
  workshop: Workshop,
  lists: readonly List[],
  request: () => List,
  { threads, rounds, collections, requests }: LibraryRaceOptions,
): Promise<void> {
  const entrants: Entrant[] = []
  // One that does not run here, or ends, does not stop the others.
  const unlessEnded = async <T>({ name }: Peer, step: () => Promise<T>): Promise<T | undefined> => {
    return await step().catch((error: Error) => {
      console.log(`# ${name}: ${error.message}`)
      return undefined
    })
  }
  for (const peer of peers) {
    const runner = await unlessEnded(peer, async () => Runner.start(peer, await workshop.command(peer, threads)))
    // The first takes memory and compiles.
    if (runner && (await unlessEnded(peer, () => runner.ask(lists)))) entrants.push({ runner, rounds: [] })
  }
  for (let round = 0; round < rounds; round++)
    // Turn about, so that a drift of the machine's speed meets all.
    for (const entrant of round % 2 === 0 ? [...entrants] : [...entrants].reverse()) {
      const scored = await unlessEnded(entrant.runner.peer, () => entrant.runner.score(lists))
      if (scored) entrant.rounds.push(scored)
      else entrants.splice(entrants.indexOf(entrant), 1)
    }

  const pairs = lists.reduce((sum, { documents }) => sum + documents.length, 0)
  const rateOf = ({ rounds: own }: Entrant) => median(own.map(({ seconds }) => pairs / seconds))
  const documents = request().documents.length
  const perSecond = (SHARE * Math.min(...entrants.map(rateOf))) / documents
  const reference = entrants.find(({ runner }) => runner.peer.name === REFERENCE)?.rounds[0]?.scores
  const judged = collections.map(({ name }) => `nDCG@10 ${name}`)
  const waited = requests ? [`p50, p99 at ${perSecond.toFixed(2)} requests/s`] : []
  for (const collection of collections)
    console.log(
      `# ${collection.name}: first stage ${meanNdcg(collection, firstScores(collection)).toFixed(4)}, ${collection.queries.length} queries`,
    )
  const heads = [
    'pairs/s',
    'CPU ms a pair',
    'rank correlation',
    ...judged,
    ...waited,
    'peak memory',
    'start',
    'installed',
  ]
  console.log(`| peer | precision | ${heads.join(' | ')} |`)
  console.log(`| --- | --- |${' ---: |'.repeat(heads.length)}`)
  for (const { runner, rounds: own } of entrants) {
    const values: string[] = []
    for (const collection of collections)
      values.push(meanNdcg(collection, (await runner.ask(listsOf(collection))).scores).toFixed(4))
    if (requests) {
      const asked = Array.from({ length: requests }, request)
      const times = await latencies((i) => runner.ask([asked[i] ?? request()]), arrivals(perSecond, requests))
      values.push(`${percentile(times, 0.5).toFixed(0)}, ${percentile(times, 0.99).toFixed(0)} ms`)
    }
    const alike = reference ? sampleRankCorrelation([...(own[0]?.scores ?? [])], [...reference]).toFixed(4) : ''
    console.log(
      `| ${[
        ...[runner.peer.name, runner.peer.precision, rangeOf(own.map(({ seconds }) => pairs / seconds))],
        ...[rangeOf(own.map(({ cpuSeconds }) => (1000 * cpuSeconds) / pairs)), alike, ...values],
        ...[megabytes(runner.peakBytes), `${runner.startSeconds.toFixed(1)} s`],
        megabytes(await workshop.size(runner.peer.environment)),
      ].join(' | ')} |`,
    )
    runner.end()
  }
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`
}
