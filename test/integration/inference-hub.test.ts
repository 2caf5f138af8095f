/** Models by hub id: a local server speaks the hub's part of HTTP, and counts what it is asked. */
import { once } from 'node:events'
import { createReadStream, existsSync, statSync } from 'node:fs'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type OpenModelOptions, openModel } from '../../worker/model/model.js'
import { listModels } from '../../worker/model/model-list.js'
import { temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'

interface Lacks {
  readonly onnx?: boolean
  readonly tokenizer?: boolean
  readonly architecture?: string
}

let server: Server
/** The folder whose files the hub has. */
let served = tinyModel('one-logit')
let asked: string[] = []

beforeAll(async () => {
  server = createServer((request, response) => {
    const url = request.url ?? ''
    asked.push(url)
    const [, name = '', revision = '', file = ''] = /^\/tiny\/([\w-]+)\/resolve\/([\w.-]+)\/(.+)$/.exec(url) ?? []
    const path = join(served, file)
    const known = name === 'reranker' && ['main', 'v1'].includes(revision)
    if (!known || !existsSync(path)) {
      response.writeHead(404).end()
      return
    }
    const { size } = statSync(path)
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    if (range) {
      const [start, end] = [Number(range[1]), Math.min(Number(range[2]), size - 1)]
      response.writeHead(206, { 'content-length': end - start + 1, 'content-range': `bytes ${start}-${end}/${size}` })
      createReadStream(path, { start, end }).pipe(response)
      return
    }
    response.writeHead(200, { 'content-length': size })
    if (request.method === 'HEAD') response.end()
    else createReadStream(path).pipe(response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  process.env.HF_ENDPOINT = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})

beforeEach(() => {
  asked = []
})

afterAll(async () => {
  delete process.env.HF_ENDPOINT
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
})

const options = async (more: Partial<OpenModelOptions> = {}): Promise<OpenModelOptions> => {
  return { dtype: 'auto', device: 'cpu', cacheDir: await temporaryFolder(), allowHub: true, ...more }
}

test('a hub model is downloaded once, then comes from the cache', async () => {
  const given = await options()
  const model = await openModel('tiny/reranker', given)
  expect(model).toMatchObject({ name: 'tiny/reranker', dtype: 'fp32', logits: 1, maxTokens: 64 })
  expect(model.folder.startsWith(given.cacheDir)).toBe(true)
  const local = await openModel(tinyModel('one-logit'), await options({ allowHub: false }))
  expect(model.fingerprint).toBe(local.fingerprint)
  const requests = asked.length
  expect(requests).toBeGreaterThan(0)
  expect(await openModel('tiny/reranker', given)).toEqual(model)
  expect(asked).toHaveLength(requests)
})

test('a revision has its own place, by option or in the reference', async () => {
  const given = await options()
  const model = await openModel('tiny/reranker@v1', given)
  expect(asked.some((url) => url.includes('/resolve/v1/onnx/model.onnx'))).toBe(true)
  expect((await openModel('tiny/reranker', { ...given, revision: 'v1' })).folder).toBe(model.folder)
  expect((await openModel('tiny/reranker', given)).folder).not.toBe(model.folder)
  const listed = await listModels(given)
  expect(
    listed
      .filter(({ source }) => source === 'cache')
      .map(({ name }) => name)
      .sort(),
  ).toEqual(['tiny/reranker', 'tiny/reranker@v1'])
})

test('what sentence-transformers saved is fetched too', async () => {
  served = resolve('test/golden/models/variants')
  try {
    const local = await openModel(served, await options({ allowHub: false }))
    expect(local.activation).toBe('identity')
    const model = await openModel('tiny/reranker', await options())
    expect(model).toMatchObject({ activation: 'identity', fingerprint: local.fingerprint, maxTokens: 96 })
  } finally {
    served = tinyModel('one-logit')
  }
})

test('only the wanted format is fetched', async () => {
  const model = await openModel('tiny/reranker', await options({ dtype: 'int8' }))
  expect(model).toMatchObject({ dtype: 'int8' })
  const whole = asked.filter((url) => url.endsWith('.onnx'))
  expect(existsSync(join(model.folder, 'onnx', 'model_quantized.onnx'))).toBe(true)
  expect(existsSync(join(model.folder, 'onnx', 'model.onnx'))).toBe(false)
  expect(whole.length).toBeGreaterThan(0)
})

test.each([
  ['has no graph', { onnx: false }, '@v1', 'models add tiny/reranker --revision v1'],
  ['has no tokenizer.json', { tokenizer: false }, '', 'models add tiny/reranker`'],
  ['is a causal one', { architecture: 'Qwen3ForCausalLM' }, '', 'models add tiny/reranker`'],
])('a model that %s is served once it is added', async (_, { onnx, tokenizer, architecture }: Lacks, at, advice) => {
  served = await temporaryFolder()
  try {
    await cp(tinyModel('one-logit'), served, { recursive: true })
    if (onnx === false) await rm(join(served, 'onnx'), { recursive: true })
    if (tokenizer === false) await rm(join(served, 'tokenizer.json'))
    if (architecture !== undefined) {
      const file = join(served, 'config.json')
      const config = JSON.parse(await readFile(file, 'utf8')) as object
      await writeFile(file, JSON.stringify({ ...config, architectures: [architecture] }))
    }
    const opening = openModel(`tiny/reranker${at}`, await options())
    await expect(opening).rejects.toMatchObject({ code: 'unknown_model', message: expect.stringContaining(advice) })
  } finally {
    served = tinyModel('one-logit')
  }
})

test('what the hub does not have is unknown', async () => {
  await expect(openModel('tiny/nothing', await options())).rejects.toMatchObject({
    code: 'unknown_model',
    message: expect.stringMatching(/tiny\/nothing/),
  })
  await expect(openModel('tiny/reranker@v9', await options())).rejects.toMatchObject({ code: 'unknown_model' })
})

test('a hub that is not reached is said to be', async () => {
  const gone = createServer().listen(0, '127.0.0.1')
  await once(gone, 'listening')
  const { port } = gone.address() as AddressInfo
  gone.close()
  const running = process.env.HF_ENDPOINT
  process.env.HF_ENDPOINT = `http://127.0.0.1:${port}`
  try {
    await expect(openModel('tiny/elsewhere', await options())).rejects.toMatchObject({
      code: 'unknown_model',
      message: expect.stringMatching(/no such folder here, and the hub at http:.* is not reached: .*ECONNREFUSED/),
    })
  } finally {
    process.env.HF_ENDPOINT = running
  }
})

test('no hub is asked where that is not allowed', async () => {
  expect(asked).toEqual([])
  await expect(openModel('tiny/nothing', await options({ allowHub: false }))).rejects.toMatchObject({
    code: 'unknown_model',
  })
  expect(asked).toEqual([])
})
