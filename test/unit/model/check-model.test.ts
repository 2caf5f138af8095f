/** `models check`: every fault is found, named, and comes with a fix; the rest is still looked at. */
import { createHash } from 'node:crypto'
import { cp, link, mkdir, readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { checkModel } from '../../../worker/model/model-check.js'
import { copyOf, type TinyModel, temporaryFolder, tinyModel } from '../../fixtures/models/tiny-models.js'

const NAMES: TinyModel[] = ['one-logit', 'two-logit', 'no-types', 'roberta']

test.each(NAMES)('%s is sound', async (name) => {
  const { ok, findings } = await checkModel(tinyModel(name))
  expect(findings.filter((finding) => !finding.ok)).toEqual([])
  expect(ok).toBe(true)
  expect(findings.map(({ what }) => what)).toContain('trial run of onnx/model.onnx')
})

async function faultsOf(folder: string): Promise<Record<string, string>> {
  const { ok, findings } = await checkModel(folder)
  const faults = findings.filter((finding) => !finding.ok)
  expect(ok).toBe(faults.length === 0)
  expect(faults.every(({ fix }) => fix.length > 0)).toBe(true)
  return Object.fromEntries(faults.map(({ what, detail }) => [what, detail]))
}

test('an empty folder lacks everything', async () => {
  expect(Object.keys(await faultsOf(await temporaryFolder()))).toEqual(['config.json', 'tokenizer.json', 'ONNX files'])
})

test('a folder that is not there lacks everything too', async () => {
  expect(Object.keys(await faultsOf('/no/such/folder'))).toEqual(['config.json', 'tokenizer.json', 'ONNX files'])
})

test('no tokenizer', async () => {
  const folder = await copyOf('one-logit')
  await rm(join(folder, 'tokenizer.json'))
  expect(await faultsOf(folder)).toEqual({ 'tokenizer.json': expect.stringMatching(/the file is missing/) })
})

test('a truncated ONNX file, beside sound ones', async () => {
  const folder = await copyOf('one-logit')
  await truncate(join(folder, 'onnx', 'model_quantized.onnx'), 10_000)
  expect(await faultsOf(folder)).toEqual({ 'onnx/model_quantized.onnx': expect.stringMatching(/cut off/) })
})

test('a wrong head', async () => {
  const folder = await copyOf('two-logit')
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, id2label: { 0: 'relevant' } }))
  expect(await faultsOf(folder)).toEqual({
    'head of onnx/model.onnx': expect.stringMatching(/2 outputs, config.json says 1/),
  })
})

test("another model's tokenizer: the vocabulary, and the trial run that needs its highest id", async () => {
  const folder = await copyOf('one-logit')
  const tokenizer = JSON.parse(await readFile(join(folder, 'tokenizer.json'), 'utf8'))
  tokenizer.model.vocab.foreign = 5000
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer))
  const faults = await faultsOf(folder)
  expect(faults['vocabulary of onnx/model.onnx']).toMatch(/5001 token ids/)
  expect(faults['trial run of onnx/model.onnx']).toMatch(/out of data bounds/)
})

test('a class that builds no post-processor, and none in tokenizer.json', async () => {
  const folder = await copyOf('one-logit')
  const tokenizer = JSON.parse(await readFile(join(folder, 'tokenizer.json'), 'utf8'))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify({ ...tokenizer, post_processor: null }))
  await writeFile(join(folder, 'tokenizer_config.json'), '{"tokenizer_class":"PreTrainedTokenizerFast"}')
  expect(Object.keys(await faultsOf(folder))).toEqual(['special tokens'])
})

test.each([
  ['symbolic', symlink],
  ['hard', link],
])('weights beside the graph behind %s links', async (_kind, linkTo) => {
  const folder = await copyOf('no-types')
  const weights = join(folder, 'onnx', 'model.onnx_data')
  await rename(weights, join(folder, 'blob'))
  await linkTo(join(folder, 'blob'), weights)
  expect(await faultsOf(folder)).toEqual({})
  expect(await readdir(folder)).not.toContainEqual(expect.stringMatching(/links/))
})

test('files that rankmill.json names and are not there', async () => {
  const folder = await copyOf('roberta')
  const dtypes = { fp32: 'onnx/model.onnx', int8: 'onnx/model_int8.onnx' }
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify({ name: 'tiny', dtypes }))
  expect(await faultsOf(folder)).toEqual({
    'ONNX files': expect.stringMatching(/names onnx\/model_int8\.onnx, not there/),
  })
})

/** A sound model with exits. */
async function withExits(files: string[]): Promise<string> {
  const folder = await copyOf('roberta')
  await mkdir(join(folder, 'onnx'), { recursive: true })
  await cp(join(tinyModel('exits'), 'onnx'), join(folder, 'onnx'), { recursive: true })
  const exits = files.map((file, i) => ({ layer: 2 * i + 2, files: { fp32: `onnx/${file}` } }))
  await writeFile(
    join(folder, 'rankmill.json'),
    JSON.stringify({ name: 'tiny', dtypes: { fp32: 'onnx/model.onnx' }, exits }),
  )
  return folder
}

test('exits that chain, that do not, and one that is missing', async () => {
  expect(await faultsOf(await withExits(['stage_1.onnx', 'stage_2.onnx']))).toEqual({})
  expect(await faultsOf(await withExits(['stage_2.onnx', 'stage_1.onnx']))).toEqual({
    exits: expect.stringMatching(/stage 1 asks for "hidden_states"/),
  })
  expect(await faultsOf(await withExits(['stage_1.onnx', 'stage_3.onnx']))).toEqual({
    exits: expect.stringMatching(/stage_3\.onnx: the file is missing/),
  })
})

test('a file of another version, whose weights others read', async () => {
  const folder = await copyOf('one-logit')
  const content = await readFile(join(folder, 'onnx', 'model.onnx'))
  const manifest = (digest: string) => ({
    name: 'tiny',
    dtypes: { fp32: 'onnx/model.onnx' },
    sha256: { 'onnx/model.onnx': digest },
  })
  const right = createHash('sha256').update(content).digest('hex')
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest(right)))
  expect(await faultsOf(folder)).toEqual({})
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest(right.replaceAll(/[0-7]/g, '8'))))
  expect(await faultsOf(folder)).toEqual({
    contents: expect.stringMatching(/not the file that rankmill.json describes/),
  })
})
