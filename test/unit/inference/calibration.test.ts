/** How long measuring goes on, with sessions whose speed is known. */
import { readdir } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { RankmillError } from '../../../shared/errors.js'
import { chooseShape, type StartSessions } from '../../../worker/inference/calibration.js'
import type { Batch, BatchOutput } from '../../../worker/inference/engine.js'
import type { SessionProcess } from '../../../worker/inference/session-process.js'
import { openModel } from '../../../worker/model/model.js'
import { temporaryFolder, tinyModel } from '../../fixtures/models/tiny-models.js'

/** Sessions that answer as `run` does; how many were started and closed is counted. */
function sessionsThat(run: (batch: Batch) => Promise<BatchOutput>) {
  const count = { started: 0, closed: 0, largest: 0 }
  const start: StartSessions = async ({ sessions }) =>
    Array.from({ length: sessions }, () => {
      count.started++
      const session = {
        run: (batch: Batch) => {
          count.largest = Math.max(count.largest, batch.size * batch.length)
          return run(batch)
        },
        close: async () => {
          count.closed++
        },
      }
      return session as unknown as SessionProcess
    })
  return { count, start }
}

/** A device that takes so long for a token. */
const paced = (msPerToken: number) => async (batch: Batch) => {
  const inferenceMs = batch.size * batch.length * msPerToken
  await new Promise((resolve) => setTimeout(resolve, inferenceMs))
  return { logits: new Float32Array(batch.size), inferenceMs }
}

async function choose(run: (batch: Batch) => Promise<BatchOutput>, calibrateMs: number, device: 'cpu' | 'webgpu') {
  const cacheDir = await temporaryFolder()
  const model = await openModel(tinyModel('one-logit'), { dtype: 'fp32', device, cacheDir, allowHub: false })
  const said: [string, object][] = []
  const log = {
    info: (fields: object, message: string) => said.push([message, fields]),
    warn: (fields: object, message: string) => said.push([message, fields]),
  }
  const { count, start } = sessionsThat(run)
  const options = { device, threads: 1, calibrate: true, calibrateMs, callTimeoutMs: 60_000, cacheDir, log }
  const { shape } = await chooseShape(model, options, start)
  const kept = await readdir(`${cacheDir}/calibration`).catch(() => [])
  return { shape, said, count, kept }
}

const stopped = 'batch shape: its time was up, the best so far is taken'

test('a device that does not answer is given the smallest calls, and nothing is remembered', async () => {
  const { shape, said, count, kept } = await choose(() => new Promise(() => undefined), 200, 'webgpu')
  expect(shape).toMatchObject({ sessions: 1, batchTokens: 128 })
  expect(said).toEqual([[stopped, expect.objectContaining({ calibrateMs: 200, measured: false })]])
  expect(count).toMatchObject({ started: 1, closed: 0 })
  expect(kept).toEqual([])
})

test('a slow device gets what was best within the time; calls that would outlast it are not begun', async () => {
  // 128 tokens take 13 ms, and are measured in some 250; 8192 would take 16 s.
  const { shape, said, count, kept } = await choose(paced(0.1), 1500, 'webgpu')
  expect(said.map(([message]) => message)).toEqual([stopped])
  expect(shape.batchTokens).toBeLessThanOrEqual(2048)
  expect(count.largest).toBeLessThanOrEqual(2048)
  expect(kept).toHaveLength(1)
})

test('a call that is too large for the device ends the search, and no more', async () => {
  const run = async (batch: Batch) => {
    if (batch.size * batch.length > 600) throw new RankmillError('out_of_memory', 'no room')
    // As long for many as for one, so that the largest that there is room for is the fastest by far.
    return await paced(20 / (batch.size * batch.length))(batch)
  }
  const { shape } = await choose(run, 10_000, 'webgpu')
  expect(shape.batchTokens).toBe(512)
})

test('a CPU is bounded as well', async () => {
  const { said } = await choose(() => new Promise(() => undefined), 200, 'cpu')
  expect(said.map(([message]) => message)).toEqual([stopped])
})

test('on a CPU larger calls are tried as long as they pay: the memory of the largest is kept', async () => {
  const { shape, count } = await choose(paced(0.02), 10_000, 'cpu')
  expect(shape.batchTokens).toBeLessThanOrEqual(512)
  expect(count.largest).toBeGreaterThan(512)
  expect(count.largest).toBeLessThanOrEqual(1024)
  // As long for many as for one.
  const growing = await choose(async (batch) => paced(20 / (batch.size * batch.length))(batch), 10_000, 'cpu')
  expect(growing.shape.batchTokens).toBe(4096)
})
