import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { syntheticBatch } from '../../../worker/inference/calibration.js'
import { type KeptShape, keepShape, listShapes, outdateShape, readShape } from '../../../worker/inference/kept-shape.js'
import { ObservedSpeed } from '../../../worker/inference/observed-speed.js'
import { temporaryFolder } from '../../fixtures/models/tiny-models.js'

const MINUTE = 60_000
const kept = (busy: boolean): KeptShape => ({
  shape: { sessions: 2, threadsPerSession: 1, batchPairs: 32, batchTokens: 512 },
  model: 'm',
  dtype: 'int8',
  device: 'cpu',
  threads: 2,
  tokensPerSecond: 9000,
  measuredAt: 1_000_000,
  busy,
})

it('is kept for a month, and for minutes where the machine was busy', async () => {
  const folder = await temporaryFolder()
  const [quiet, busy] = [join(folder, 'calibration', 'quiet.json'), join(folder, 'calibration', 'busy.json')]
  await keepShape(quiet, kept(false))
  await keepShape(busy, kept(true))
  const at = (minutes: number) => 1_000_000 + minutes * MINUTE
  expect(await readShape(busy, at(9))).toEqual(kept(true))
  expect(await readShape(busy, at(11))).toBeUndefined()
  expect(await readShape(quiet, at(29 * 24 * 60))).toEqual(kept(false))
  expect(await readShape(quiet, at(31 * 24 * 60))).toBeUndefined()
  // What an earlier version left, or a crash: as if it were not there.
  await writeFile(quiet, '{"sessions":2,"threadsPerSession":1,"batchPairs":8,"batchTokens":128}')
  expect(await readShape(quiet, at(1))).toBeUndefined()
  expect(await listShapes(folder)).toEqual([kept(true)])
})

it('is measured anew where real calls are much faster than what was measured, on a machine that was busier than it looked', async () => {
  const file = join(await temporaryFolder(), 'calibration', 'kept.json')
  const { shape, tokensPerSecond } = kept(false)
  /** So many calls of so many tokens, each session at so many tokens a second. */
  const speedOf = (calls: number, size: number, length: number, rate: number) => {
    const speed = new ObservedSpeed(tokensPerSecond, shape)
    for (let i = 0; i < calls; i++) speed.add(syntheticBatch(size, length), (1000 * size * length) / rate)
    return speed
  }
  expect(speedOf(64, 4, 128, 9000).isFaster).toBe(true)
  expect(speedOf(64, 4, 128, 9000).tokensPerSecond).toBeCloseTo(18_000)
  // As fast as measured, or a little faster; too few; short texts, small calls.
  expect(speedOf(64, 4, 128, 4500).isFaster).toBe(false)
  expect(speedOf(64, 4, 128, 6000).isFaster).toBe(false)
  expect(speedOf(63, 4, 128, 9000).isFaster).toBe(false)
  expect(speedOf(64, 32, 16, 9000).isFaster).toBe(false)
  expect(speedOf(64, 1, 128, 9000).isFaster).toBe(false)

  await keepShape(file, kept(false))
  await outdateShape(file)
  expect(await readShape(file, Date.now())).toBeUndefined()
})
