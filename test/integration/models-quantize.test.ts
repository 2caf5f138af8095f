/** `rankmill models quantize`, as a user runs it. What needs Python's numpy and onnx is skipped without them. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { copyOfCausal } from '../fixtures/models/causal-models.js'
import { copyOf, temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'
import { runCommand, type Said } from './command.js'

const PYTHON = process.env.RANKMILL_PYTHON || 'python3'
const withPython = test.skipIf(!hasPackages())

const withRuntime = test.skipIf(!hasPackages('onnxruntime'))

function hasPackages(...more: string[]): boolean {
  try {
    execFileSync(PYTHON, ['-c', `import ${['numpy', 'onnx', ...more].join(', ')}`], { stdio: 'pipe' })
    return true
  } catch {
    process.stderr.write(
      `skipped: ${PYTHON} lacks one of ${['numpy', 'onnx', ...more].join(', ')} (name one that has with RANKMILL_PYTHON)\n`,
    )
    return false
  }
}

async function quantize(...args: string[]): Promise<Said> {
  const cwd = await temporaryFolder()
  return await runCommand(['models', 'quantize', ...args], cwd, {
    RANKMILL_CALIBRATE: 'false',
    RANKMILL_LOG_LEVEL: 'error',
  })
}

async function requestsFile(): Promise<string> {
  const file = join(await temporaryFolder(), 'requests.jsonl')
  const documents = ['retry the failed job', 'redis', 'what is a queue ?', 'the model is in the worker , or not in it']
  const lines = ['how to retry', 'what is the score of a document'].map((query) => JSON.stringify({ query, documents }))
  await writeFile(file, `${lines.join('\n')}\n`)
  return file
}

withPython.each(['int8', 'int4', 'fp16'])(
  '%s of a causal model, with what its answers need of its head',
  async (dtype) => {
    const folder = await copyOfCausal('qwen3')
    const data = await requestsFile()
    const whole = await quantize(folder, '--dtype', dtype, '--data', data, '--json')
    expect(whole).toMatchObject({ code: 0 })
    const out = await temporaryFolder()
    const cut = await quantize(folder, '--dtype', dtype, '--head', 'yes-no', '--out', out, '--data', data, '--json')
    expect(cut).toMatchObject({ code: 0 })
    const [before, after] = [whole, cut].map(({ stdout }) => JSON.parse(stdout))
    expect(after.formats[1].bytes).toBeLessThan(before.formats[1].bytes)
    expect(after.agreement.greatestDifference).toBeLessThan(dtype === 'int4' ? 0.5 : 0.1)
    if (dtype !== 'fp16') expect(after.formats[1].moved).toBeLessThan(1e-4)
    const checked = await runCommand(['models', 'check', out], out, {})
    expect(checked).toMatchObject({ code: 0, stdout: expect.stringMatching(/columns 0 \(no\) and 1 \(yes\)/) })
  },
)

withPython('a head of its own is not cut', async () => {
  const said = await quantize(await copyOf('one-logit'), '--dtype', 'fp16', '--head', 'yes-no')
  expect(said.code).not.toBe(0)
  expect(said.stderr).toMatch(/--head yes-no: the model is no causal one/)
})

withPython.each(['int8', 'int4', 'fp16'])('%s: written, sound, and compared with fp32', async (dtype) => {
  const folder = await copyOf('one-logit')
  const said = await quantize(folder, '--dtype', dtype, '--data', await requestsFile(), '--json', '--force')
  expect(said).toMatchObject({ code: 0 })
  const { path, linears, data, formats, agreement } = JSON.parse(said.stdout)
  expect(path).toBe(join(folder, `onnx/model_${dtype}.onnx`))
  expect(linears).toBeGreaterThanOrEqual(12)
  expect(data).toMatchObject({ lists: 2, pairs: 8 })
  expect(formats).toMatchObject([
    { dtype: 'fp32', batchInvariant: true },
    { dtype, pairsPerSecond: expect.any(Number) },
  ])
  if (dtype !== 'fp16') expect(formats[1].moved).toBeLessThan(1e-5)
  expect(formats[1].bytes).toBeLessThan(formats[0].bytes)
  expect(agreement.greatestDifference).toBeGreaterThan(0)
  expect(agreement.greatestDifference).toBeLessThan(0.1)
  expect(await readdir(folder)).not.toContainEqual(expect.stringMatching(/^\.quantize/))
  const checked = await runCommand(['models', 'check', folder], folder, {})
  expect(checked.code).toBe(0)
  expect(checked.stdout).toMatch(`onnx/model_${dtype}.onnx`)
})

withRuntime('int8: what its steps are was found by comparing on texts held out, and is said', async () => {
  const folder = await copyOf('one-logit')
  const said = await quantize(folder, '--dtype', 'int8', '--force', '--json')
  expect(said).toMatchObject({ code: 0 })
  const { int8, linears, formats } = JSON.parse(said.stdout)
  expect(int8).toMatchObject({ steps: expect.stringMatching(/^(fixed|row)$/), tried: { fixed: {}, row: {} } })
  const { fixed, row } = int8.tried
  if (int8.steps === 'fixed') {
    expect(int8.fixed).toBeLessThanOrEqual(linears)
    expect(fixed.rankCorrelation >= 0.998 || fixed.noise <= row.noise).toBe(true)
    expect(said.stderr).toMatch(/int8 with fixed steps in \d+ of \d+ linear layers.*on texts held out/)
  } else {
    expect(fixed.noise).toBeGreaterThan(row.noise)
    expect(said.stderr).toMatch(/int8 with one step a token: fixed steps are further from fp32.*on texts held out/)
  }
  expect(fixed.moved).toBeLessThan(1e-4)
  expect(formats[1]).toMatchObject({ batchInvariant: true })
  expect(await readdir(folder)).not.toContainEqual(expect.stringMatching(/texts|^\.quantize/))
})

withPython('int8 without onnxruntime for Python: one step a token, and the reason', async () => {
  const folder = await copyOf('one-logit')
  const bare = await temporaryFolder()
  await writeFile(join(bare, 'onnxruntime.py'), 'raise ModuleNotFoundError("none", name="onnxruntime")\n')
  const cwd = await temporaryFolder()
  const said = await runCommand(['models', 'quantize', folder, '--dtype', 'int8', '--force', '--json'], cwd, {
    RANKMILL_CALIBRATE: 'false',
    RANKMILL_LOG_LEVEL: 'error',
    PYTHONPATH: bare,
  })
  expect(said).toMatchObject({ code: 0 })
  expect(JSON.parse(said.stdout).int8).toMatchObject({ steps: 'row', why: expect.stringMatching(/no onnxruntime/) })
  expect(said.stderr).toMatch(/int8 with one step a token: .*no onnxruntime/)
})

withPython(
  'int8 where memory would not do to measure steps: one step a token, and how much it would take',
  async () => {
    const folder = await copyOf('one-logit')
    const little = join(await temporaryFolder(), 'python')
    await writeFile(little, `#!/bin/sh\nulimit -v 1400000\nexec "${PYTHON}" "$@"\n`, { mode: 0o755 })
    const said = await quantize(folder, '--dtype', 'int8', '--force', '--json', '--python', little)
    expect(said).toMatchObject({ code: 0 })
    const why = expect.stringMatching(/takes some 1\.5 GB of memory, and 1\.4 are free/)
    expect(JSON.parse(said.stdout).int8).toMatchObject({ steps: 'row', why })
  },
)

withPython('the formats are those of the fixtures, which onnxruntime in Python was compared with', async () => {
  const folder = await copyOf('one-logit')
  await quantize(folder, '--dtype', 'fp16', '--out', join(folder, 'half'))
  const [made, kept] = await Promise.all(
    [join(folder, 'half'), tinyModel('quantized')].map((from) => readFile(join(from, 'onnx/model_fp16.onnx'))),
  )
  expect(made?.equals(kept ?? Buffer.alloc(0))).toBe(true)
})

withPython('--out: a folder that loads by itself, and takes another format later', async () => {
  const out = join(await temporaryFolder(), 'smaller')
  for (const dtype of ['int8', 'int4']) {
    expect((await quantize(tinyModel('one-logit'), '--dtype', dtype, '--out', out)).code).toBe(0)
  }
  expect((await readdir(out)).sort()).toEqual(['config.json', 'onnx', 'tokenizer.json', 'tokenizer_config.json'])
  expect((await readdir(join(out, 'onnx'))).sort()).toEqual(['model_int4.onnx', 'model_int8.onnx'])
  const other = await quantize(tinyModel('roberta'), '--dtype', 'fp16', '--out', out)
  expect(other.stderr).toMatch(/output_exists: .*config\.json: is of another model/)
})

withPython('rankmill.json comes to name the new format, with its digest', async () => {
  const folder = await copyOf('one-logit')
  const manifest = { name: 'mine', dtypes: { fp32: 'onnx/model.onnx' }, sha256: {}, extra: 1 }
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
  expect((await quantize(folder, '--dtype', 'int4')).code).toBe(0)
  const name = 'onnx/model_int4.onnx'
  expect(JSON.parse(await readFile(join(folder, 'rankmill.json'), 'utf8'))).toEqual({
    ...manifest,
    dtypes: { fp32: 'onnx/model.onnx', int4: name },
    sha256: { [name]: expect.stringMatching(/^[0-9a-f]{64}$/) },
  })
})

withPython('a format that is replaced loses its stages: they are of the file before', async () => {
  const folder = await copyOf('one-logit')
  const exits = [{ layer: 1, files: { fp32: 'onnx/stage.onnx', int8: 'onnx/stage_int8.onnx' } }]
  const manifest = { name: 'mine', dtypes: { fp32: 'onnx/model.onnx', int8: 'onnx/model_quantized.onnx' }, exits }
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
  expect((await quantize(folder, '--dtype', 'int8', '--force')).code).toBe(0)
  expect(JSON.parse(await readFile(join(folder, 'rankmill.json'), 'utf8'))).toEqual({
    name: 'mine',
    dtypes: { fp32: 'onnx/model.onnx', int8: 'onnx/model_int8.onnx' },
    exits: [{ layer: 1, files: { fp32: 'onnx/stage.onnx' } }],
  })
})

withPython('a graph without linear layers is refused, and nothing is written', async () => {
  const folder = await copyOf('one-logit')
  const stage = join(tinyModel('exits'), 'onnx/stage_1.onnx')
  await writeFile(join(folder, 'onnx/model.onnx'), await readFile(stage))
  const said = await quantize(folder, '--dtype', 'int4')
  expect(said.stderr).toMatch(/quantization_failed: .*has no linear layer/)
  expect(existsSync(join(folder, 'onnx/model_int4.onnx'))).toBe(false)
})

test('a format that is there is not overwritten without --force', async () => {
  const said = await quantize(tinyModel('one-logit'), '--dtype', 'int8')
  expect(said.stderr).toMatch(/output_exists: .*model_quantized\.onnx: the folder has an int8 file already; --force/)
})

test('--out that cannot be a folder is refused', async () => {
  const file = join(await temporaryFolder(), 'file')
  await writeFile(file, '')
  const said = await quantize(tinyModel('roberta'), '--dtype', 'int8', '--out', file)
  expect(said.stderr).toMatch(/output_unwritable: .*file: EEXIST/)
})

test('a Python that is not there, and one without the packages, are told apart from other faults', async () => {
  const folder = await copyOf('roberta')
  const absent = await quantize(folder, '--dtype', 'int8', '--python', '/no/such/python')
  expect(absent).toMatchObject({ code: 2 })
  expect(absent.stderr).toMatch(
    /python_unavailable: --python: "\/no\/such\/python" cannot be run \(ENOENT\).*pip install -r/,
  )
  if (!existsSync('/bin/sh')) return
  const bare = join(await temporaryFolder(), 'python')
  await writeFile(bare, `#!/bin/sh\nexec ${PYTHON} -I -S "$@"\n`)
  await chmod(bare, 0o755)
  const lacking = await quantize(folder, '--dtype', 'int8', '--python', bare)
  expect(lacking.stderr).toMatch(/python_unavailable: .*(No module named|cannot be run|not found).*/)
  expect(lacking.stderr).toMatch(/quantize-requirements\.txt/)
})

test.each([
  ['no folder', async () => '/no/such/folder', 'unknown_model'],
  ['no fp32 file', async () => tinyModel('quantized'), 'invalid_model: .*no fp32 file'],
  ['a bi-encoder', biEncoder, 'invalid_model: .*bi-encoder cannot be quantised'],
])('%s is refused', async (_, folderOf, message) => {
  const said = await quantize(await folderOf(), '--dtype', 'int4', '--force')
  expect(said).toMatchObject({ code: 2 })
  expect(said.stderr).toMatch(new RegExp(message))
})

async function biEncoder(): Promise<string> {
  const folder = await copyOf('bi-encoder')
  await writeFile(
    join(folder, 'rankmill.json'),
    JSON.stringify({ name: 'b', kind: 'bi-encoder', dtypes: { fp32: 'onnx/model.onnx' } }),
  )
  return folder
}

test('data that cannot be measured with is found out before anything is written', async () => {
  const folder = await copyOf('roberta')
  const data = join(await temporaryFolder(), 'data')
  await mkdir(data)
  expect((await quantize(folder, '--dtype', 'int8', '--data', data)).stderr).toMatch(
    /input_unreadable: .*has no corpus/,
  )
  const file = join(data, 'requests.jsonl')
  await writeFile(file, '{"query":"a","documents":["b","c"]}\n{"query":1}\n')
  expect((await quantize(folder, '--dtype', 'int8', '--data', file)).stderr).toMatch(/requests\.jsonl: line 2: query/)
  await writeFile(file, '{"query":"a","documents":{"corpus":"c","ids":["1"]}}\n')
  expect((await quantize(folder, '--dtype', 'int8', '--data', file)).stderr).toMatch(/line 1: documents: must be texts/)
  expect((await readdir(join(folder, 'onnx'))).sort()).toEqual(['model.onnx'])
})

test('a format that there is not is bad usage', async () => {
  expect(await quantize(tinyModel('roberta'), '--dtype', 'int2')).toMatchObject({ code: 2 })
})
