/** Inputs and outputs in a store that speaks S3's protocol give what files give, through replaced objects and broken connections. */

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { asyncBufferFromFile, parquetReadObjects } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import S3rver from 's3rver'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { filesOf } from '../../producer/batch/batch-inputs.js'
import { runCommand, type Said } from './command.js'
import { useStage } from './stage.js'

const stage = useStage()
let folder: string
let store: S3rver
let client: S3Client
let endpoint: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-s3-'))
  const configureBuckets = [{ name: 'bucket', configs: [] }]
  store = new S3rver({ port: 0, silent: true, directory: join(folder, 'store'), configureBuckets })
  const { port } = (await store.run()) as AddressInfo
  endpoint = `http://127.0.0.1:${port}`
  const credentials = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' }
  client = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials })
})
afterEach(async () => {
  client.destroy()
  await store.close()
  await rm(folder, { recursive: true })
})

const ROWS = Array.from({ length: 400 }, (_, i) => ({
  custom_id: `r${i}`,
  query: `what is ${i}`,
  documents: Array.from({ length: 3 }, (_, k) => `passage ${k} of ${(i * 5 + k) % 11}, ${'long '.repeat(300)}`),
}))
const lines = (rows: typeof ROWS) =>
  rows.map(({ custom_id, ...body }) => `${JSON.stringify({ custom_id, body })}\n`).join('')

it('patterns are those of a shell, and a key may look like one', async () => {
  for (const key of [
    'part-1.jsonl',
    'part-2.jsonl',
    'part-x.jsonl',
    'sub/part-3.jsonl',
    'odd[1].jsonl',
    '.part-1.jsonl',
  ])
    await put(`set/${key}`, lines(ROWS.slice(0, 1)))
  const { AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY } = process.env
  Object.assign(process.env, {
    AWS_ENDPOINT_URL: endpoint,
    AWS_ACCESS_KEY_ID: 'S3RVER',
    AWS_SECRET_ACCESS_KEY: 'S3RVER',
  })
  try {
    const found = async (pattern: string) =>
      (await filesOf([`s3://bucket/set/${pattern}`])).map((url) => url.replace('s3://bucket/set/', ''))
    expect(await found('*.jsonl')).toEqual(['odd[1].jsonl', 'part-1.jsonl', 'part-2.jsonl', 'part-x.jsonl'])
    expect(await found('part-[0-9].jsonl')).toEqual(['part-1.jsonl', 'part-2.jsonl'])
    expect(await found('part-{2,x}.jsonl')).toEqual(['part-2.jsonl', 'part-x.jsonl'])
    expect(await found('**/part-?.jsonl')).toEqual(['part-1.jsonl', 'part-2.jsonl', 'part-x.jsonl', 'sub/part-3.jsonl'])
    expect(await found('odd[1].jsonl')).toEqual(['odd[1].jsonl'])
    await expect(found('none-[ab].jsonl')).rejects.toMatchObject({ code: 'input_unreadable' })
  } finally {
    for (const [name, value] of Object.entries({ AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY })) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
})

const at = (name: string) => join(folder, name)
const put = (Key: string, Body: string | Buffer) => client.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body }))
async function get(Key: string): Promise<Buffer> {
  const { Body } = await client.send(new GetObjectCommand({ Bucket: 'bucket', Key }))
  return Buffer.from((await Body?.transformToByteArray()) ?? [])
}

function batch(args: string[], url = endpoint): Promise<Said> {
  const { redis, prefix } = stage().options()
  return runCommand(['batch', 'run', ...args, '--no-embedded', '--max-tokens-per-doc', '8'], folder, {
    RANKMILL_REDIS: redis,
    RANKMILL_PREFIX: prefix,
    AWS_ENDPOINT_URL: url,
    AWS_ACCESS_KEY_ID: 'S3RVER',
    AWS_SECRET_ACCESS_KEY: 'S3RVER',
  })
}

/** Hands connections on to the store, and cuts the answers of the first of them after some bytes. */
async function breaking(cuts: number, afterBytes: number): Promise<{ server: Server; cut: () => number }> {
  let cut = 0
  const server = createServer()
  server.removeAllListeners('connection')
  server.on('connection', (socket) => {
    const upstream = connect(Number(new URL(endpoint).port), '127.0.0.1')
    let passed = 0
    upstream.on('data', (chunk) => {
      passed += chunk.length
      socket.write(chunk)
      if (passed < afterBytes || cut >= cuts) return
      cut++
      socket.destroy()
      upstream.destroy()
    })
    socket.on('data', (chunk) => upstream.write(chunk))
    for (const side of [socket, upstream]) {
      side.on('error', () => undefined)
      side.on('close', () => {
        socket.destroy()
        upstream.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { server, cut: () => cut }
}

async function expected(): Promise<string> {
  await writeFile(at('in.jsonl'), lines(ROWS))
  expect(await batch(['in.jsonl', '-o', 'out.jsonl'])).toMatchObject({ code: 0 })
  return readFile(at('out.jsonl'), 'utf8')
}

it('inputs and outputs in a store give what files give, in each format', async () => {
  await stage().worker()
  const whole = await expected()
  await put('in/part-0.jsonl.gz', gzipSync(lines(ROWS.slice(0, 150))))
  await put('in/part-1.jsonl', lines(ROWS.slice(150)))
  await put('in/other.txt', 'not a request')
  expect(await batch(['s3://bucket/in/part-*', '-o', 's3://bucket/out/all.jsonl'])).toMatchObject({ code: 0 })
  expect(String(await get('out/all.jsonl'))).toBe(whole)

  const columnData = (['custom_id', 'query', 'documents'] as const).map((name) => ({
    name,
    data: ROWS.map((row) => (name === 'documents' ? JSON.stringify(row[name]) : row[name])),
  }))
  await put('in.parquet', Buffer.from(parquetWriteBuffer({ columnData, rowGroupSize: 90 })))
  expect(await batch(['s3://bucket/in.parquet', '-o', 's3://bucket/out.parquet'])).toMatchObject({ code: 0 })
  await writeFile(at('out.parquet'), await get('out.parquet'))
  const rows = await parquetReadObjects({ file: await asyncBufferFromFile(at('out.parquet')) })
  const results = whole
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).response.body.results)
  expect(rows.map((row) => row['results'])).toMatchObject(
    results.map((list: object[]) => list.map((result) => ({ ...result, id: null }))),
  )
})

it('a connection that breaks is followed by another one, from the next byte on', async () => {
  await stage().worker()
  const whole = await expected()
  await put('in.jsonl', lines(ROWS))
  const { server, cut } = await breaking(3, 400_000)
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    expect(await batch(['s3://bucket/in.jsonl', '-o', 'broken.jsonl'], url)).toMatchObject({ code: 0 })
    expect(await readFile(at('broken.jsonl'), 'utf8')).toBe(whole)
    expect(cut()).toBe(3)
  } finally {
    server.close()
  }
})

it('an output that did not arrive is sent again by the same command, and one that did is not', async () => {
  await stage().worker()
  const whole = await expected()
  const command = ['in.jsonl', '-o', 's3://bucket/out.jsonl']
  expect(await batch(command)).toMatchObject({ code: 0 })
  await put('out.jsonl', 'something else')
  expect(await batch(command)).toMatchObject({ code: 0 })
  expect(String(await get('out.jsonl'))).toBe(whole)
  // Killed, or its disk full, while it noted that it had arrived.
  const note = (await readdir(at('.'), { recursive: true })).find((name) => name.endsWith('.uploaded.json')) ?? ''
  await writeFile(at(note), '{"si')
  expect(await batch(command)).toMatchObject({ code: 0 })
})

it('an object that no run from here wrote is not written over', async () => {
  await writeFile(at('in.jsonl'), lines(ROWS.slice(0, 1)))
  await put('theirs.jsonl', 'theirs')
  const refused = await batch(['in.jsonl', '-o', 's3://bucket/theirs.jsonl'])
  expect(refused.stderr).toMatch(/output_exists: s3:\/\/bucket\/theirs.jsonl: is there/)
  const same = await batch(['s3://bucket/theirs.jsonl', '-o', 's3://bucket/theirs.jsonl'])
  expect(same.stderr).toMatch(/output_exists: .* is an input as well/)
  expect(String(await get('theirs.jsonl'))).toBe('theirs')
})

it('what is not there is said before any work', async () => {
  const missing = await batch(['s3://bucket/none.jsonl', '-o', 'out.jsonl'])
  expect(missing.stderr).toMatch(/input_unreadable: s3:\/\/bucket\/none.jsonl: NotFound/)
  const nowhere = await batch(['s3://bucket/none.jsonl', '-o', 's3://nowhere/out.jsonl'])
  expect(nowhere.stderr).toMatch(/output_unwritable: s3:\/\/nowhere\/out.jsonl: NotFound/)
})
