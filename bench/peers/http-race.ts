/** Servers through one load generator: all that they take, then requests that come at random, at 0.7 of that. */
import { sampleRankCorrelation } from 'simple-statistics'
import { median, percentile } from '../conditions.js'
import type { Workshop } from './environments.js'
import { HttpServer, type ServerPeer } from './http-server.js'
import { arrivals, latencies, saturated } from './load.js'
import type { List } from './peer-lines.js'

/** Of what a server takes. */
const SHARE = 0.7
const CLIENTS = 16

export interface HttpRaceOptions {
  readonly threads: number
  readonly rounds: number
  /** Requests of a round. */
  readonly requests: number
}

interface Entrant {
  readonly server: HttpServer
  readonly rates: number[]
  readonly cpuMs: number[]
}

/** @param request a new one each time, of that many documents for all */
export async function raceServers(
  peers: readonly ServerPeer[],
  workshop: Workshop,
  request: () => List,
  { threads, rounds, requests }: HttpRaceOptions,
): Promise<void> {
  const entrants: Entrant[] = []
  try {
    for (const peer of peers) {
      const server = await HttpServer.start(peer, workshop, threads).catch((error: Error) =>
        console.log(`# ${peer.name}: ${error.message}`),
      )
      if (server) entrants.push({ server, rates: [], cpuMs: [] })
    }
    const said: number[][] = []
    const compared = Array.from({ length: 5 }, request)
    for (const { server } of entrants) said.push((await Promise.all(compared.map((list) => server.ask(list)))).flat())
    for (let round = 0; round < rounds; round++)
      for (const { server, rates, cpuMs } of round % 2 === 0 ? entrants : [...entrants].reverse()) {
        const asked = Array.from({ length: requests }, request)
        const before = server.use()?.cpuSeconds
        const seconds = await saturated((i) => server.ask(asked[i] ?? request()), requests, CLIENTS)
        rates.push(requests / seconds)
        cpuMs.push((((server.use()?.cpuSeconds ?? Number.NaN) - (before ?? 0)) * 1000) / requests)
      }
    const slowest = Math.min(...entrants.map(({ rates }) => median(rates)))
    const documents = request().documents.length
    console.log(`# ${CLIENTS} clients at saturation; then ${requests} requests by Poisson's arrivals`)
    console.log(
      `| server | precision | requests/s | pairs/s | CPU ms a request | p50, p99 at ${SHARE} of its own | p50, p99 at ${(SHARE * slowest).toFixed(2)}/s | rank correlation | peak memory | start |`,
    )
    console.log('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
    for (const [i, { server, rates, cpuMs }] of entrants.entries()) {
      const rate = median(rates)
      const tails: string[] = []
      for (const perSecond of [SHARE * rate, SHARE * slowest]) {
        const asked = Array.from({ length: requests }, request)
        const times = await latencies((n) => server.ask(asked[n] ?? request()), arrivals(perSecond, requests))
        tails.push(`${percentile(times, 0.5).toFixed(0)}, ${percentile(times, 0.99).toFixed(0)} ms`)
      }
      const alike = sampleRankCorrelation(said[i] ?? [], said[0] ?? [])
      const peak = server.use()?.peakBytes
      console.log(
        `| ${[
          ...[server.peer.name, server.peer.precision, rangeOf(rates), (rate * documents).toFixed(1)],
          ...[Number.isNaN(median(cpuMs)) ? '' : rangeOf(cpuMs), ...tails, alike.toFixed(4)],
          ...[peak === undefined ? '' : `${Math.round(peak / 1e6)} MB`, `${server.startSeconds.toFixed(1)} s`],
        ].join(' | ')} |`,
      )
    }
  } finally {
    await Promise.all(entrants.map(({ server }) => server.end()))
  }
}

/** Median, least and most. */
export function rangeOf(values: readonly number[]): string {
  return `${median(values).toFixed(1)} (${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)})`
}
