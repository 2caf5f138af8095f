/** The openai client, unmodified: models, files and a whole batch. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import OpenAI, { toFile } from 'openai'

const url = process.env.RANKMILL_TEST_SERVER
const model = process.env.RANKMILL_TEST_MODEL
const client = new OpenAI({ apiKey: process.env.RANKMILL_TEST_KEY ?? 'none', baseURL: `${url}/v1` })
const line = (i, body = {}) =>
  JSON.stringify({
    custom_id: `request-${i}`,
    method: 'POST',
    url: '/v1/rerank',
    body: { model, query: 'capital city', documents: [`the capital is ${i}`, 'apples', 'pears'], top_n: 2, ...body },
  })

async function upload(lines) {
  return client.files.create({ file: await toFile(Buffer.from(lines.join('\n')), 'in.jsonl'), purpose: 'batch' })
}

async function finished(batch) {
  const until = Date.now() + 120_000
  let now = batch
  while (!['completed', 'failed', 'expired', 'cancelled'].includes(now.status)) {
    assert.ok(Date.now() < until, `still ${now.status}`)
    await delay(100)
    now = await client.batches.retrieve(batch.id)
  }
  return now
}

test('lists the models that are served', async () => {
  const models = []
  for await (const each of client.models.list()) models.push(each.id)
  assert.ok(models.includes(model))
  assert.equal((await client.models.retrieve(model)).id, model)
})

test('a batch, from file to file', async () => {
  const file = await upload([...Array.from({ length: 20 }, (_, i) => line(i)), line(20, { documents: [] })])
  assert.equal((await client.files.retrieve(file.id)).filename, 'in.jsonl')
  const batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/rerank',
    completion_window: '24h',
    metadata: { of: 'test' },
  })
  const done = await finished(batch)
  assert.equal(done.status, 'completed')
  assert.deepEqual(done.request_counts, { total: 21, completed: 20, failed: 1 })
  assert.deepEqual(done.metadata, { of: 'test' })
  const output = await (await client.files.content(done.output_file_id)).text()
  const rows = output
    .trim()
    .split('\n')
    .map((text) => JSON.parse(text))
  assert.deepEqual(
    rows.map((row) => row.custom_id),
    Array.from({ length: 20 }, (_, i) => `request-${i}`),
  )
  for (const { response } of rows) {
    assert.equal(response.status_code, 200)
    assert.equal(response.body.results.length, 2)
  }
  const errors = await (await client.files.content(done.error_file_id)).text()
  assert.equal(JSON.parse(errors).custom_id, 'request-20')
  const listed = []
  for await (const each of client.batches.list({ limit: 1 })) listed.push(each.id)
  assert.ok(listed.includes(batch.id))
  for (const id of [file.id, done.output_file_id, done.error_file_id])
    assert.ok((await client.files.delete(id)).deleted)
  await assert.rejects(client.files.retrieve(file.id), { status: 404 })
})

test('a batch can be cancelled', async () => {
  const file = await upload(
    Array.from({ length: 2000 }, (_, i) => line(i, { documents: [`cancelled ${i}`, `apples ${i}`] })),
  )
  const batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/rerank',
    completion_window: '24h',
  })
  const cancelled = await client.batches.cancel(batch.id)
  assert.ok(['cancelling', 'cancelled'].includes(cancelled.status))
  assert.equal((await finished(batch)).status, 'cancelled')
})

test('says what is wrong with a batch', async () => {
  await assert.rejects(
    client.batches.create({ input_file_id: 'file-none', endpoint: '/v1/rerank', completion_window: '24h' }),
    (error) => error.status === 404 && error.code === 'not_found',
  )
})
