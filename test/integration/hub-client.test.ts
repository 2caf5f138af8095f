/** Downloads from a hub on this machine: whole and checked, or not at all. */
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { downloadFile, findSnapshot, type HubFile, type HubSnapshot } from '../../worker/model/adding/hub-client.js'
import { temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'
import { COMMIT, HubServer } from './hub-server.js'

const { signal } = new AbortController()
let hub: HubServer

beforeEach(async () => {
  hub = await HubServer.start({ 'tiny/reranker': tinyModel('weights') })
  process.env.HF_ENDPOINT = hub.url
})

afterEach(async () => {
  delete process.env.HF_ENDPOINT
  delete process.env.HF_TOKEN
  await hub.close()
})

const WEIGHTS = join(tinyModel('weights'), 'model.safetensors')

function named(snapshot: HubSnapshot, name: string): HubFile {
  const file = snapshot.files.find((other) => other.name === name)
  if (!file) throw new Error(`no ${name}`)
  return file
}

async function fetchWeights(): Promise<string> {
  const snapshot = await findSnapshot('tiny/reranker', 'main', signal)
  const path = join(await temporaryFolder(), 'model.safetensors')
  await downloadFile(snapshot, named(snapshot, 'model.safetensors'), path, { signal })
  expect((await readFile(path)).equals(await readFile(WEIGHTS))).toBe(true)
  expect(existsSync(`${path}.part`)).toBe(false)
  return path
}

const ranges = () => hub.asked.filter(({ url }) => url.startsWith('/elsewhere')).map(({ range }) => range)

test('what a revision has, with checksums and licence', async () => {
  const snapshot = await findSnapshot('tiny/reranker', 'v1', signal)
  expect(snapshot).toMatchObject({ id: 'tiny/reranker', commit: COMMIT, licence: 'apache-2.0' })
  expect(named(snapshot, 'config.json').blob).toMatch(/^[0-9a-f]{40}$/)
  expect(named(snapshot, 'model.safetensors')).toMatchObject({ sha256: expect.any(String), bytes: expect.any(Number) })
})

test('a connection that breaks is taken up where it broke, at the same commit', async () => {
  hub.faults.cutAfter = 1000
  await fetchWeights()
  expect(ranges()).toEqual([undefined, 'bytes=1000-'])
  expect(hub.asked.filter(({ url }) => url.includes('/resolve/')).every(({ url }) => url.includes(COMMIT))).toBe(true)
})

test('what an interrupted command left is not fetched again, and a server without ranges sends all of it', async () => {
  const snapshot = await findSnapshot('tiny/reranker', 'main', signal)
  const whole = await readFile(WEIGHTS)
  for (const withoutRanges of [false, true]) {
    hub.faults.withoutRanges = withoutRanges
    const path = join(await temporaryFolder(), 'model.safetensors')
    await writeFile(`${path}.part`, whole.subarray(0, 777))
    await downloadFile(snapshot, named(snapshot, 'model.safetensors'), path, { signal })
    expect((await readFile(path)).equals(whole)).toBe(true)
    expect(ranges().at(-1)).toBe('bytes=777-')
  }
})

test('a damaged file is fetched again; one that stays damaged is refused and not put in place', async () => {
  hub.faults.damaged = 1
  await fetchWeights()
  hub.faults.damaged = 2
  await expect(fetchWeights()).rejects.toMatchObject({
    code: 'hub_unavailable',
    message: expect.stringMatching(/model\.safetensors: its sha256 is [0-9a-f]{64} instead of [0-9a-f]{64}, twice/),
  })
})

test('what was left half of another file is found out by its checksum', async () => {
  const snapshot = await findSnapshot('tiny/reranker', 'main', signal)
  const path = join(await temporaryFolder(), 'config.json')
  await writeFile(`${path}.part`, '{ "other": 1')
  await downloadFile(snapshot, named(snapshot, 'config.json'), path, { signal })
  expect(await readFile(path)).toEqual(await readFile(join(tinyModel('weights'), 'config.json')))
})

test('a mirror whose API says no checksums is held to those of its headers', async () => {
  hub.faults.withoutBlobs = true
  await fetchWeights()
  hub.faults.damaged = 2
  await expect(fetchWeights()).rejects.toMatchObject({ code: 'hub_unavailable' })
})

test('a hub that is busy is asked again; one that stays so is named', async () => {
  hub.faults.refusals = [
    [429, { 'retry-after': '0' }],
    [503, { 'retry-after': '0' }],
  ]
  await fetchWeights()
  hub.faults.refusals = Array.from({ length: 5 }, () => [429, { 'retry-after': '0' }])
  await expect(fetchWeights()).rejects.toMatchObject({
    code: 'hub_unavailable',
    message: expect.stringMatching(/answers 429, and asks for 0 s of patience/),
  })
  hub.faults.refusals = [[429, { 'retry-after': '3600' }]]
  await expect(fetchWeights()).rejects.toMatchObject({ message: expect.stringMatching(/asks for 3600 s of patience/) })
})

test('HF_TOKEN lets in, and is not shown to where large files come from', async () => {
  hub.faults.token = 'hf_secret'
  await expect(fetchWeights()).rejects.toMatchObject({
    code: 'hub_denied',
    message: expect.stringMatching(/answers 401: Access to it is restricted/),
  })
  process.env.HF_TOKEN = 'hf_secret'
  await fetchWeights()
  const elsewhere = hub.asked.filter(({ url }) => url.startsWith('/elsewhere'))
  expect(elsewhere.map(({ authorization }) => authorization)).toEqual([undefined])
})

test('what is not there is unknown; a hub that is not reached is said to be', async () => {
  await expect(findSnapshot('tiny/nothing', 'main', signal)).rejects.toMatchObject({ code: 'unknown_model' })
  await expect(findSnapshot('tiny/reranker', 'v9', signal)).rejects.toMatchObject({ code: 'unknown_model' })
  process.env.HF_ENDPOINT = 'http://127.0.0.1:1'
  const aborting = AbortSignal.timeout(300)
  await expect(findSnapshot('tiny/reranker', 'main', aborting)).rejects.toMatchObject({ name: 'TimeoutError' })
})
