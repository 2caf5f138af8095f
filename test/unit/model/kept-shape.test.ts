import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { type KeptShape, keepShape, listShapes, readShape } from '../../../worker/inference/kept-shape.js'
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
