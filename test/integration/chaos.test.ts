/** The short form of `npm run test:chaos`. */
import { expect, it } from 'vitest'
import { chaos } from '../chaos/chaos.js'

it('a batch gives the same bytes, and every request has one answer, through every kind of fault', async () => {
  const said: string[] = []
  const { same, lines, wrong } = await chaos({ requests: 400, faults: 13, seed: 7, log: (line) => said.push(line) })
  expect({ same, lines, wrong }, said.join('\n')).toEqual({ same: true, lines: 400, wrong: [] })
}, 300_000)
