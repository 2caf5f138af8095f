/** A device's scores are compared with the CPU's at the first start, and not again where nothing has changed. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkAgreement } from '../../worker/inference/agreement.js'
import type { Batch, EngineOptions } from '../../worker/inference/engine.js'
import { SessionProcess } from '../../worker/inference/session-process.js'
import { type Model, openModel } from '../../worker/model/model.js'
import { temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'

const log = { info: () => undefined, warn: () => undefined }
const DAY_MS = 86_400_000
let model: Model
/** Stands for a GPU: what it is called is all that differs. */
let session: SessionProcess

beforeAll(async () => {
  const cacheDir = await temporaryFolder()
  model = await openModel(tinyModel('one-logit'), { dtype: 'fp32', device: 'cpu', cacheDir, allowHub: false })
  session = await SessionProcess.start({ model, device: 'cpu', threads: 1, callTimeoutMs: 60_000 }, log)
})
afterAll(() => session.close())

async function optionsIn(cacheDir: string): Promise<EngineOptions> {
  return { device: 'webgpu', threads: 1, calibrate: false, callTimeoutMs: 60_000, cacheDir, log }
}

/** Runs on the session, and counts. */
function counted(change = (logit: number) => logit) {
  const asked: Batch[] = []
  const run = async (batch: Batch) => {
    asked.push(batch)
    const output = await session.run(batch)
    return { ...output, logits: output.logits.map(change) }
  }
  return { asked, run }
}

test('what was right is not asked again for a month, by the same model and driver', async () => {
  const options = await optionsIn(await temporaryFolder())
  const device = counted()
  await checkAgreement(model, device, options, () => DAY_MS)
  const once = device.asked.length
  expect(once).toBeGreaterThan(0)
  await checkAgreement(model, device, options, () => 30 * DAY_MS)
  expect(device.asked).toHaveLength(once)
  await checkAgreement({ ...model, fingerprint: 'another' }, device, options, () => 2 * DAY_MS)
  expect(device.asked).toHaveLength(2 * once)
  process.env['VK_DRIVER_FILES'] = '/another/driver.json'
  try {
    await checkAgreement(model, device, options, () => 2 * DAY_MS)
  } finally {
    delete process.env['VK_DRIVER_FILES']
  }
  expect(device.asked).toHaveLength(3 * once)
  await checkAgreement(model, device, options, () => 32 * DAY_MS)
  expect(device.asked).toHaveLength(4 * once)
})

test('what was wrong is refused each time, and not kept', async () => {
  const cacheDir = await temporaryFolder()
  const options = await optionsIn(cacheDir)
  const refused = { code: 'invalid_configuration', details: { param: 'device' } }
  for (const change of [(logit: number) => logit + 0.6, () => Number.NaN])
    await expect(checkAgreement(model, counted(change), options)).rejects.toMatchObject(refused)
  expect(await readdir(join(cacheDir, 'agreement')).catch(() => [])).toEqual([])
  await checkAgreement(model, counted(), options)
})
