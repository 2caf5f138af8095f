/** Load on a peer: all that it takes, or requests that come when they come, whether or not those before have been answered. */
import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from '../../shared/random.js'

/** Sends the request of that number and waits for its answer. */
export type Ask = (number: number) => Promise<unknown>

/** Asks `total` times, so many at once. @returns seconds until all were answered */
export async function saturated(ask: Ask, total: number, clients: number): Promise<number> {
  let next = 0
  const startedAt = performance.now()
  const client = async () => {
    while (next < total) await ask(next++)
  }
  await Promise.all(Array.from({ length: clients }, client))
  return (performance.now() - startedAt) / 1000
}

/** When requests of callers who know nothing of each other are due (Poisson), in ms from the start; the same every time. */
export function arrivals(perSecond: number, count: number): number[] {
  const random = seededRandom(22)
  let at = 0
  return Array.from({ length: count }, () => {
    at += (-Math.log(1 - random()) * 1000) / perSecond
    return at
  })
}

/** @returns ms from when each request was due to its answer: what one waits for those before it is counted, as its caller does */
export async function latencies(ask: Ask, due: readonly number[]): Promise<number[]> {
  const startedAt = performance.now()
  return await Promise.all(
    due.map(async (at, i) => {
      await until(startedAt + at)
      await ask(i)
      return performance.now() - startedAt - at
    }),
  )
}

/** A timer may fire a millisecond before its time; a request that is asked early would seem to be answered early. */
async function until(dueAt: number): Promise<void> {
  for (let left = dueAt - performance.now(); left > 0; left = dueAt - performance.now()) await delay(Math.ceil(left))
}
