/** The short form of `npm run test:chaos`. */
import { expect, it } from 'vitest'
import { chaos } from '../chaos/chaos.js'

it('a batch gives the same bytes through kills of its runner, its workers and Redis, and runners that sleep', async () => {
  const said: string[] = []
  const { same, lines } = await chaos({ requests: 500, kills: 8, seed: 7, log: (line) => said.push(line) })
  expect({ same, lines }, said.join('\n')).toEqual({ same: true, lines: 500 })
}, 300_000)
