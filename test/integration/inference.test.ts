/** The engine with real models in real processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { copyFile, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import type { EngineOptions, InferenceEngine } from '../../worker/inference/engine.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { SessionProcess } from '../../worker/inference/session-process.js'
import { type Dtype, type Model, openModel } from '../../worker/model/model.js'
import {
  batchOf,
  copyOf,
  golden,
  goldenLabels,
  type TinyModel,
  temporaryFolder,
  tinyModel,
} from '../fixtures/models/tiny-models.js'
import { until } from './stage.js'

const SETTINGS = { device: 'cpu', threads: 1, callTimeoutMs: 60_000 } as const
const silent = { info: () => undefined, warn: () => undefined }
const engines: InferenceEngine[] = []

async function open(folder: string, dtype: Dtype | 'auto' = 'auto'): Promise<Model> {
  return await openModel(folder, { dtype, device: 'cpu', cacheDir: await temporaryFolder(), allowHub: false })
}

async function start(model: Model, more: Partial<EngineOptions> = {}): Promise<InferenceEngine> {
  const cacheDir = await temporaryFolder()
  const engine = await createEngine(model, {
    device: 'cpu',
    threads: 2,
    calibrate: false,
    callTimeoutMs: 60_000,
    cacheDir,
    log: silent,
    ...more,
  })
  engines.push(engine)
  return engine
}

afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()))
})

test('nothing is told to the makers of ONNX Runtime, and none of its files are left', async () => {
  const before = { ...process.env }
  const folder = await temporaryFolder()
  process.env['TMPDIR'] = folder
  try {
    await (await start(await open(tinyModel('one-logit')))).close()
    expect((await readdir(folder)).filter((name) => !name.startsWith('rankmill-'))).toEqual([])
  } finally {
    process.env = before
  }
})

describe('scores', () => {
  const cases: [TinyModel, Dtype, number][] = [
    ['one-logit', 'fp32', 1e-5],
    ['one-logit', 'fp16', 2e-3],
    ['one-logit', 'int8', 1e-3],
    ['quantized', 'int8', 1e-3],
    ['quantized', 'int4', 1e-3],
    ['quantized', 'fp16', 2e-3],
    ['two-logit', 'fp32', 1e-5],
    ['no-types', 'fp32', 1e-5],
    ['roberta', 'fp32', 1e-5],
  ]
  test.each(cases)('of %s in %s are those of onnxruntime in Python', async (name, dtype, tolerance) => {
    const model = await open(tinyModel(name), dtype)
    const engine = await start(model)
    const { pairs, logits } = golden(name)
    // Alone, because that is how the golden ones were made, and dynamic int8 depends on it.
    const outputs = await Promise.all(pairs.map((pair) => engine.run(batchOf([pair], model.padId))))
    const far = outputs.map((output, i) => Math.abs((output.logits[0] ?? Number.NaN) - (logits[dtype][i] ?? 0)))
    expect(Math.max(...far)).toBeLessThan(tolerance)
  })

  test('of a head with three outputs are the logits of the label that rankmill.json names', async () => {
    const folder = await copyOf('three-label')
    const { pairs, logits } = goldenLabels()
    const fingerprints = new Set<string>()
    for (const label of [0, 1, 2]) {
      const manifest = { name: 'nli', dtypes: { fp32: 'onnx/model.onnx' }, label }
      await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
      const model = await open(folder)
      expect(model).toMatchObject({ logits: 3, label, activation: 'identity' })
      fingerprints.add(model.fingerprint)
      const engine = await start(model)
      const { logits: got } = await engine.run(batchOf(pairs, model.padId))
      for (const [i, row] of logits.entries()) expect(got[i]).toBeCloseTo(row[label] ?? Number.NaN, 4)
    }
    expect(fingerprints.size).toBe(3)
  })

  test('of a graph with 32-bit ids, positions from outside and hidden states before its score are the same', async () => {
    const model = await open(tinyModel('asking'))
    const engine = await start(model)
    const { pairs, logits } = golden('roberta')
    const { logits: got } = await engine.run(batchOf(pairs, model.padId))
    for (const [i, logit] of logits.fp32.entries()) expect(got[i]).toBeCloseTo(logit, 4)
  })

  test.each<[TinyModel, Dtype | 'auto']>([
    ['one-logit', 'auto'],
    ['two-logit', 'auto'],
    ['no-types', 'auto'],
    ['roberta', 'auto'],
    ['quantized', 'int8'],
    ['quantized', 'int4'],
  ])('of %s in %s do not depend on the batch or its padding', async (name, dtype) => {
    const model = await open(tinyModel(name), dtype)
    const engine = await start(model)
    const { pairs } = golden(name)
    const alone = await Promise.all(pairs.map((pair) => engine.run(batchOf([pair], model.padId))))
    const together = await engine.run(batchOf(pairs, model.padId, model.maxTokens))
    const halves = [
      await engine.run(batchOf(pairs.slice(0, 5), model.padId)),
      await engine.run(batchOf(pairs.slice(5), model.padId)),
    ]
    const expected = alone.map(({ logits }) => logits[0] ?? Number.NaN)
    expect([...together.logits]).toEqual(expected)
    expect(halves.flatMap(({ logits }) => [...logits])).toEqual(expected)
  })

  test('come from whichever session, in the order asked for', async () => {
    const engine = await start(await open(tinyModel('one-logit')), { sessions: 2 })
    const { pairs, logits } = golden('one-logit')
    const asked = Array.from({ length: 120 }, (_, i) => i % pairs.length)
    const outputs = await Promise.all(asked.map((i) => engine.run(batchOf(pairs.slice(i, i + 1)))))
    const far = outputs.map((output, at) => (output.logits[0] ?? Number.NaN) - (logits.fp32[asked[at] ?? 0] ?? 0))
    expect(Math.max(...far.map(Math.abs))).toBeLessThan(1e-5)
    expect(outputs.every(({ inferenceMs }) => inferenceMs > 0)).toBe(true)
    expect(engine.busyRatio()).toBeGreaterThan(0)
    expect(engine.busyRatio()).toBeLessThanOrEqual(1)
  })
})

describe('failures', () => {
  test('a token id beyond the embedding fails its batch, and only that', async () => {
    const engine = await start(await open(tinyModel('one-logit')), { sessions: 1 })
    const { pairs } = golden('one-logit')
    const poisonous = { ids: [2, 5_000_000, 3], types: [0, 0, 0] }
    const failed = engine.run(batchOf([...pairs.slice(0, 3), poisonous]))
    const after = engine.run(batchOf(pairs.slice(0, 3)))
    await expect(failed).rejects.toMatchObject({
      code: 'inference_failed',
      message: expect.stringMatching(/out of data bounds/),
    })
    expect((await after).logits).toHaveLength(3)
  })

  test('more tokens than the model has positions for fail their batch', async () => {
    const engine = await start(await open(tinyModel('one-logit')))
    await expect(engine.run(batchOf(golden('one-logit').pairs, 0, 65))).rejects.toMatchObject({
      code: 'inference_failed',
    })
  })

  test('a process that dies loses the batch that runs, retryably; another runs those behind it', async () => {
    const model = await open(tinyModel('one-logit'))
    const warnings: string[] = []
    const log = { info: () => undefined, warn: (_: object, message: string) => warnings.push(message) }
    const session = await SessionProcess.start({ model, ...SETTINGS }, log)
    try {
      const { pairs } = golden('one-logit')
      const before = session.pid
      process.kill(before, 'SIGSTOP')
      const sent = Promise.allSettled(Array.from({ length: 20 }, () => session.run(batchOf(pairs))))
      process.kill(before, 'SIGKILL')
      const [first, ...others] = await sent
      expect(first).toMatchObject({ status: 'rejected', reason: { code: 'worker_lost', retryable: true } })
      for (const outcome of others) expect(outcome.status).toBe('fulfilled')
      expect(session.pid).not.toBe(before)
      expect(warnings).toContain('an inference process is replaced')
    } finally {
      await session.close()
    }
  })

  test('a call that does not end is given up, and what waited behind it runs', async () => {
    const model = await open(tinyModel('one-logit'))
    const session = await SessionProcess.start({ model, ...SETTINGS, callTimeoutMs: 300 }, silent)
    try {
      const { pairs } = golden('one-logit')
      const before = session.pid
      process.kill(before, 'SIGSTOP')
      const [endless, behind] = [session.run(batchOf(pairs)), session.run(batchOf(pairs))]
      await expect(endless).rejects.toMatchObject({
        code: 'inference_failed',
        message: expect.stringMatching(/did not end within 300 ms \(callTimeoutMs\)/),
      })
      expect((await behind).logits).toHaveLength(pairs.length)
      expect(session.pid).not.toBe(before)
    } finally {
      await session.close()
    }
  })

  test('while a replacement cannot start, what waits for it is told, and it is tried again', async () => {
    const folder = await copyOf('one-logit')
    const model = await open(folder)
    const session = await SessionProcess.start({ model, ...SETTINGS }, silent)
    try {
      const bytes = await readFile(model.modelPath)
      await rm(model.modelPath)
      process.kill(session.pid, 'SIGKILL')
      const told = async () =>
        session.run(batchOf(golden('one-logit').pairs)).then(
          ({ logits }) => logits,
          (error: { code: string }) => error.code,
        )
      await until('the start to fail', async () => (await told()) === 'worker_lost')
      await writeFile(model.modelPath, bytes)
      await until('a start', async () => (await told()).length === golden('one-logit').pairs.length)
    } finally {
      await session.close()
    }
  })

  test('a process ends with its parent, also in the middle of a call', async () => {
    const model = await open(tinyModel('one-logit'))
    const session = new URL('../../worker/inference/session-process.js', import.meta.url).href
    const script = `
      const { SessionProcess } = await import(${JSON.stringify(session)})
      const log = { info() {}, warn() {} }
      const session = await SessionProcess.start(${JSON.stringify({ model, ...SETTINGS })}, log)
      const [size, length] = [4000, 48]
      const ones = () => new BigInt64Array(size * length).fill(1n)
      session.run({ size, length, inputIds: ones(), attentionMask: ones(), tokenTypeIds: null }).catch(() => {})
      setTimeout(() => console.log(session.pid), 50)
    `
    const parent = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [said] = (await once(parent.stdout, 'data')) as [Buffer]
    const exited = once(parent, 'exit')
    parent.kill('SIGKILL')
    await exited
    const pid = Number(said.toString())
    expect(pid).toBeGreaterThan(0)
    await until('the process to end', () => {
      try {
        process.kill(pid, 0)
        return false
      } catch {
        return true
      }
    })
  })

  test('a replacement does not run what has been put in the place of its file, and runs it when it is back', async () => {
    const folder = await copyOf('one-logit')
    const model = await open(folder)
    const other = await readFile(join(tinyModel('one-logit'), 'onnx', 'model_fp16.onnx'))
    const session = await SessionProcess.start({ model, ...SETTINGS }, silent)
    try {
      const { pairs } = golden('one-logit')
      const bytes = await readFile(model.modelPath)
      await writeFile(model.modelPath, other)
      // The session that runs has its weights in memory.
      expect((await session.run(batchOf(pairs))).logits).toHaveLength(pairs.length)
      process.kill(session.pid, 'SIGKILL')
      await until('it is gone', () => !session.ready)
      await expect(session.run(batchOf(pairs))).rejects.toMatchObject({
        code: 'invalid_model',
        message: expect.stringMatching(/model\.onnx: the file has been replaced .* restart the worker/),
      })
      await writeFile(model.modelPath, bytes)
      await until('the process runs again', () => session.ready)
      expect((await session.run(batchOf(pairs))).logits).toHaveLength(pairs.length)
    } finally {
      await session.close()
    }
  })

  test('a stage that has been replaced before it was first needed', async () => {
    const folder = await copyOf('staged')
    const model = await open(folder)
    const engine = await start(model, { sessions: 1 })
    const [first, second] = model.exits
    await copyFile(second?.path ?? '', first?.path ?? '')
    await expect(engine.run({ ...batchOf(golden('one-logit').pairs), stage: 0 })).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/stage_1\.onnx: the file has been replaced/),
    })
  })

  test('a model that cannot be loaded', async () => {
    const folder = await copyOf('one-logit')
    const model = await open(folder)
    await rm(model.modelPath)
    await expect(start({ ...model })).rejects.toMatchObject({ code: 'invalid_model' })
    await expect(
      start({ ...model, modelPath: join(tinyModel('exits'), 'onnx', 'stage_2.onnx') }),
    ).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/stage_2\.onnx/),
    })
  })

  test.each(['cuda', 'webgpu'] as const)('%s where there is none', async (device) => {
    const model = await open(tinyModel('one-logit'))
    const outcome = await start(model, { device }).catch((error: unknown) => error)
    // Machines that have one pass this by.
    if (outcome instanceof Error)
      expect(outcome).toMatchObject({ code: 'invalid_configuration', details: { param: 'device' } })
  })
})

describe('closing', () => {
  test('is over soon, whatever a process does', async () => {
    const session = await SessionProcess.start({ model: await open(tinyModel('one-logit')), ...SETTINGS }, silent)
    process.kill(session.pid, 'SIGSTOP')
    const running = session.run(batchOf(golden('one-logit').pairs))
    const { pid } = session
    await Promise.all([session.close(), expect(running).rejects.toMatchObject({ code: 'closed' })])
    expect(() => process.kill(pid, 0)).toThrow('ESRCH')
  })

  test('lets what runs finish and refuses the rest; twice is once', async () => {
    const engine = await start(await open(tinyModel('one-logit')))
    const running = engine.run(batchOf(golden('one-logit').pairs))
    const closed = engine.close()
    await expect(running).resolves.toMatchObject({ logits: expect.any(Float32Array) })
    await closed
    await engine.close()
    await expect(engine.run(batchOf(golden('one-logit').pairs))).rejects.toMatchObject({ code: 'closed' })
  })
})

describe('batch shape', () => {
  test('is measured at the first start and remembered for the next', async () => {
    const model = await open(tinyModel('one-logit'))
    const cacheDir = await temporaryFolder()
    const said: string[] = []
    const log = { info: (_: object, message: string) => said.push(message), warn: () => undefined }
    // However slow a busy machine is: what is cut short is not remembered.
    const calibrated = { calibrate: true, calibrateMs: 150_000, cacheDir, log }
    const first = await start(model, calibrated)
    expect(said).toEqual(['batch shape measured'])
    expect(first.shape.sessions * first.shape.threadsPerSession).toBeLessThanOrEqual(2)
    expect(first.slots).toBe(first.sessions * 2)
    const second = await start(model, calibrated)
    expect(said).toHaveLength(1)
    expect(second.shape).toEqual(first.shape)
    await start(model, { ...calibrated, threads: 1 })
    expect(said).toHaveLength(2)
    expect(await readdir(join(cacheDir, 'calibration'))).toHaveLength(2)
  })

  test('options override it', async () => {
    const model = await open(tinyModel('one-logit'))
    const cacheDir = await temporaryFolder()
    const { shape } = await start(model, { calibrate: true, cacheDir, sessions: 1, batchPairs: 3, batchTokens: 100 })
    expect(shape).toEqual({ sessions: 1, threadsPerSession: 2, batchPairs: 3, batchTokens: 100 })
    expect(existsSync(join(cacheDir, 'calibration'))).toBe(false)
    expect((await start(model, { batchPairs: 7 })).shape).toMatchObject({
      batchPairs: 7,
      batchTokens: 7 * model.maxTokens,
    })
  })

  const bad: [Partial<EngineOptions>, string, RegExp][] = [
    [{ sessions: 3 }, 'sessions', /at most one for each of the 2 threads \(--threads\); got 3/],
    [{ batchPairs: 64, batchTokens: 63 }, 'batchPairs', /at most the 63 tokens of a batch \(--batch-tokens\); got 64/],
    [{ threads: 0 }, 'threads', /at least 1; got 0/],
    [{ batchTokens: -1 }, 'batchTokens', /got -1/],
    [{ sessions: 1.5 }, 'sessions', /got 1.5/],
  ]
  test.each(bad)('%j is refused, by name', async (options, param, message) => {
    const outcome = start(await open(tinyModel('one-logit')), options)
    await expect(outcome).rejects.toMatchObject({
      code: 'invalid_configuration',
      details: { param },
      message: expect.stringMatching(message),
    })
  })
})
