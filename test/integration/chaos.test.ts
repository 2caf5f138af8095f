/** The short form of `npm run test:chaos`: every kind of fault once. */
import { expect, it } from 'vitest'
import { type ChaosOptions, chaos } from '../chaos/chaos.js'

it.each<Pick<ChaosOptions, 'redis' | 'requests' | 'faults'>>([
  { redis: 'one', requests: 300, faults: 25 },
  { redis: 'sentinel', requests: 100, faults: 9 },
])(
  'a batch gives the same bytes, and every request has one answer, through every kind of fault ($redis)',
  async ({ redis, requests, faults }) => {
    const said: string[] = []
    const log = (line: string) => said.push(line)
    const { same, lines, wrong } = await chaos({ redis, requests, faults, seed: 7, isFake: false, log })
    expect({ same, lines, wrong }, said.join('\n')).toEqual({ same: true, lines: requests, wrong: [] })
  },
  600_000,
)
