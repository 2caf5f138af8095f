/** `rankmill models`, in a pipe. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { modelsCommand } from '../../../cli/commands/models.js'
import { copyOf, temporaryFolder, tinyModel } from '../../fixtures/models/tiny-models.js'

let printed = ''

beforeEach(() => {
  printed = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text
    return true
  })
  vi.spyOn(process.stderr, 'write').mockReturnValue(true)
})

afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = undefined
})

const run = (...args: string[]) => modelsCommand().parseAsync(args, { from: 'user' })
const lines = () =>
  printed
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

test('check: one finding a line, 0 for a sound folder', async () => {
  await run('check', '--json', tinyModel('one-logit'))
  expect(lines().every(({ ok }) => ok)).toBe(true)
  expect(process.exitCode).toBeUndefined()
})

test('check: 1 for a folder with faults, each with its fix', async () => {
  const folder = await copyOf('one-logit')
  await rm(join(folder, 'tokenizer.json'))
  await run('check', '--json', folder)
  expect(lines().filter(({ ok }) => !ok)).toMatchObject([
    { what: 'tokenizer.json', fix: expect.stringMatching(/save_pretrained/) },
  ])
  expect(process.exitCode).toBe(1)
})

test('check: a path that is no folder', async () => {
  await expect(run('check', '/no/such/folder')).rejects.toMatchObject({ code: 'unknown_model' })
})

test('show: a folder, as JSON', async () => {
  await run('show', tinyModel('one-logit'), '--cache-dir', await temporaryFolder())
  expect(JSON.parse(printed)).toMatchObject({
    source: 'folder',
    dtypes: { fp32: expect.any(Number), int8: expect.any(Number) },
    maxTokens: 64,
  })
})

test('show: what is not there is named with what is', async () => {
  await expect(run('show', 'nothing', '--cache-dir', await temporaryFolder())).rejects.toMatchObject({
    code: 'unknown_model',
  })
})

test('ls: one model a line', async () => {
  await run('ls', '--json', '--cache-dir', await temporaryFolder())
  for (const model of printed.trim() ? lines() : [])
    expect(model).toMatchObject({ source: 'shipped', name: expect.any(String) })
})
