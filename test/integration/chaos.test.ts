/** The short form of `npm run test:chaos`: every kind of fault that one Redis has, once. */
import { expect, it } from 'vitest'
import { chaos } from '../chaos/chaos.js'

it('a batch gives the same bytes, and every request has one answer, through every kind of fault', async () => {
  const said: string[] = []
  const log = (line: string) => said.push(line)
  const { same, lines, wrong } = await chaos({ redis: 'one', requests: 900, faults: 25, seed: 7, isFake: false, log })
  expect({ same, lines, wrong }, said.join('\n')).toEqual({ same: true, lines: 900, wrong: [] })
}, 600_000)
