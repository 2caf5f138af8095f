/** A short form of `npm run test:chaos -- --sentinel`: the primary steps down and is killed, and so are a runner and a worker. */
import { expect, it } from 'vitest'
import { findLaunch } from '../../cli/embedded/redis-launch.js'
import { chaos } from '../chaos/chaos.js'

it('a batch gives the same bytes, and every request has one answer, through failovers', async (context) => {
  const env = { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }
  const absent = await findLaunch({ dataDir: '.', env, log: () => undefined }).then(
    () => undefined,
    (error) => `no server can be a sentinel here: ${error}`,
  )
  if (absent) return context.skip(absent)
  const said: string[] = []
  const log = (line: string) => said.push(line)
  const only = ['failover', 'primary killed', 'worker killed', 'runner killed'] as const
  const { same, lines, wrong, faults } = await chaos({
    ...{ redis: 'sentinel', requests: 60, faults: 4, seed: 5, isFake: true, only, compared: 20, log },
  })
  expect({ same, lines, wrong }, said.join('\n')).toEqual({ same: true, lines: 60, wrong: [] })
  expect(Object.keys(faults).sort()).toEqual([...only].sort())
}, 600_000)
