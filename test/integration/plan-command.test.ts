/** `rankmill plan` as a user runs it: from what calibration keeps and what waits in a real queue. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { runCommand } from './command.js'
import { REDIS_URL, type Stage, TINY_MODEL, useStage } from './stage.js'

const stage = useStage()

async function plan(on: Stage, ...flags: string[]) {
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-plan-'))
  on.onEnd(() => rm(folder, { recursive: true, force: true }))
  const model = ['--model', TINY_MODEL, '--threads', '1', '--cache-dir', folder]
  const all = ['plan', '--redis', REDIS_URL, '--prefix', on.prefix, ...model, ...flags]
  return { first: await runCommand(all, '.', {}), again: () => runCommand(all, '.', {}) }
}

it('measures once, counts what waits and who lives, and says what is needed', async () => {
  const on = stage()
  const worker = await on.worker()
  await worker.close()
  const client = on.client()
  for (let i = 0; i < 3; i++) await client.submit({ query: `q${i}`, documents: ['a', 'b'] })
  const { first, again } = await plan(
    on,
    '--pairs',
    '1M',
    '--by',
    '1h',
    '--request-pairs',
    '2',
    '--price',
    '2',
    '--json',
  )
  expect(first.code).toBe(0)
  expect(first.stderr).toContain('measuring')
  const said = JSON.parse(first.stdout)
  expect(said.queue).toEqual({ queuedJobs: 3, liveWorkers: 0 })
  expect(said.plan.pairsPerSecondNeeded).toBeCloseTo((1_000_000 + 6) / 3600, 6)
  expect(said.plan.workers).toBeGreaterThanOrEqual(1)
  expect(said.plan.secondsByLiveWorkers).toBeNull()
  expect(said.cost).toBeCloseTo(2 * said.plan.workerHours, 9)
  const { speed } = JSON.parse((await again()).stdout)
  // What a busy machine said is measured again; the rest is kept.
  if (!said.speed.busy) expect(speed).toEqual(said.speed)
})

it('plans without a Redis, and refuses numbers that are none before anything is measured', async () => {
  const on = stage()
  const { first } = await plan(on, '--pairs', '250k', '--by', '2h', '--redis', 'redis://127.0.0.1:1')
  expect(first.code).toBe(0)
  expect(first.stderr).toContain('no Redis is reached')
  expect(first.stdout).toContain('250,000 pairs of 200 tokens in 2 h 0 min')
  for (const bad of [
    ['--pairs', '10x', '--by', '8h'],
    ['--pairs', '10M', '--by', '8'],
    ['--pairs', '10M', '--by', '8h', '--reserve', '100'],
  ]) {
    const { first: refused } = await plan(on, ...bad)
    expect(refused.code).toBe(2)
    expect(refused.stderr).not.toContain('measuring')
  }
})
