/** Whether what a process holds grows under load that stays the same: what it looks like from inside, and the verdict. */
import { readdirSync } from 'node:fs'
import { median } from './conditions.js'

/** More than noise: growth between two thirds of a run, as a share and at least so many MiB. */
const GROWTH = 0.05
const NOISE_MIB = 8
const NOISE_DESCRIPTORS = 2

export interface Held {
  /** Bytes, of these three. */
  readonly rss: number
  readonly heap: number
  readonly outside: number
  readonly descriptors: number
}

/** What this process holds, after a collection where it may ask for one (`--expose-gc`). */
export function held(): Held {
  globalThis.gc?.()
  const { rss, heapUsed, external } = process.memoryUsage()
  return { rss, heap: heapUsed, outside: external, descriptors: readdirSync('/proc/self/fd').length }
}

export const HELD_HEADER = 'rss MiB  heap MiB  outside MiB  descriptors'

export function columnsOf({ rss, heap, outside, descriptors }: Held): number[] {
  return [mib(rss), mib(heap), mib(outside), descriptors]
}

export function printColumns(values: readonly number[]): void {
  console.log(values.map((value) => String(Math.round(value * 10) / 10).padStart(8)).join('  '))
}

/**
 * Prints the medians of the second and the last third, what was in hand coming and going; the first third warms up.
 *
 * @param more noise of descriptors that is to be expected beyond a few
 * @returns whether all of it is flat
 */
export function printGrowth(seen: readonly Held[], more = 0): boolean {
  let areFlat = true
  for (const what of ['rss', 'heap', 'outside', 'descriptors'] as const) {
    const third = Math.floor(seen.length / 3)
    const [before = 0, after = 0] = [seen.slice(third, 2 * third), seen.slice(2 * third)].map((some) =>
      median(some.map((each) => each[what])),
    )
    const noise = what === 'descriptors' ? NOISE_DESCRIPTORS + more : NOISE_MIB * 2 ** 20
    const isFlat = after - before <= Math.max(noise, GROWTH * before)
    const shown = [before, after].map((value) => (what === 'descriptors' ? value : mib(value)).toFixed(1))
    console.log(`${what}: ${shown.join(' -> ')}: ${isFlat ? 'flat' : 'NOT FLAT'}`)
    areFlat &&= isFlat
  }
  return areFlat
}

function mib(bytes: number): number {
  return bytes / 2 ** 20
}
