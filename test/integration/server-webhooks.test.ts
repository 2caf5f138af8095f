/** Webhooks when their receivers, their jobs or their servers are not there: told in the end, or known to be dead. */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it } from 'vitest'
import type { OptionsInput } from '../../shared/options.js'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const REQUEST = { query: 'job queue', documents: ['a queue of jobs'] }
const OPEN = {
  webhookSecret: `whsec_${Buffer.alloc(32, 7).toString('base64')}`,
  webhookAllow: '127.0.0.0/8',
} satisfies OptionsInput

interface Taken {
  readonly id: string
  readonly at: number
  readonly event: { readonly type: string; readonly data: { readonly id: string; readonly error?: { code: string } } }
}

/** @param answers whether it ever answers */
async function receiver(answers: () => boolean = () => true) {
  const taken: Taken[] = []
  const open: ServerResponse[] = []
  const server = createServer((request, response) => {
    const at = performance.now()
    let body = ''
    request.on('data', (chunk) => {
      body += String(chunk)
    })
    request.on('end', () => {
      taken.push({ id: String(request.headers['webhook-id']), at, event: JSON.parse(body) })
      if (answers()) response.writeHead(204).end()
      else open.push(response)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  stage().onEnd(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, taken }
}

const deadOf = async (api: Api) => (await api.get('/v1/webhooks/failed')).body.data

it('that never answer are given up, tried later and later, dead in the end, and can be sent again', async () => {
  const patience = { webhookTimeoutMs: 200, webhookBackoffMs: 100, webhookAttempts: 3 }
  let answers = false
  const { url, taken } = await receiver(() => answers)
  await stage().worker()
  const api = await Api.start(stage(), { ...OPEN, ...patience })
  await api.post('/v1/rerank/jobs', { ...REQUEST, webhook: url })
  await until('it is dead', async () => (await deadOf(api)).length === 1)
  const [letter] = await deadOf(api)
  expect(letter).toMatchObject({ attempts: 3, reason: 'the receiver did not answer within 200 ms' })
  const [first = 0, second = 0, third = 0] = taken.map(({ at }) => at)
  // Each try has its time, and half of the wait before the next is certain.
  expect(second - first).toBeGreaterThan(200)
  expect(third - second).toBeGreaterThan(250)
  expect(new Set(taken.map(({ id }) => id)).size).toBe(1)
  answers = true
  expect((await api.post(`/v1/webhooks/failed/${letter.id}/retry`)).status).toBe(202)
  await until('it was taken', () => taken.length === 4)
  await until('it is dead no more', async () => (await deadOf(api)).length === 0)
  expect((await api.post(`/v1/webhooks/failed/${letter.id}/retry`)).status).toBe(404)
})

it('that are dead are kept as many as is said, the newest', async () => {
  const { url, taken } = await receiver(() => false)
  await stage().worker()
  const once = { webhookTimeoutMs: 100, webhookAttempts: 1, maxDeadLetters: 2 }
  const api = await Api.start(stage(), { ...OPEN, ...once })
  const metrics = async () => (await (await fetch(`${api.url}/metrics`)).text()) as string
  const failed = async () =>
    Number(/^rankmill_webhook_deliveries_total\{outcome="failed"\} (\d+)/m.exec(await metrics())?.[1])
  for (let i = 1; i <= 4; i++) {
    await api.post('/v1/rerank/jobs', { ...REQUEST, query: `job ${i}`, webhook: url })
    await until('it is dead', async () => (await failed()) === i)
  }
  const ids = (await deadOf(api)).map(({ id }: { id: string }) => id)
  expect(ids).toEqual([taken[3]?.id, taken[2]?.id])
})

it('for others are not held up by a receiver that never answers', async () => {
  const hangs = await receiver(() => false)
  const good = await receiver()
  await stage().worker()
  const api = await Api.start(stage(), { ...OPEN, webhookTimeoutMs: 600_000 })
  const submit = (id: string, webhook: string) => api.post('/v1/rerank/jobs', { ...REQUEST, id, query: id, webhook })
  await Promise.all(Array.from({ length: 100 }, (_, i) => submit(`hangs-${i}`, hangs.url)))
  await until('many are under way', () => hangs.taken.length > 10)
  await submit('good', good.url)
  await until('it was taken', () => good.taken.length === 1)
  // Nothing was counted as a try, and nothing was lost.
  expect(hangs.taken.length).toBeLessThan(100)
  expect(await deadOf(api)).toEqual([])
})

it('are told of a job that was deleted the moment it was done, by whichever server', async () => {
  const { url, taken } = await receiver()
  await stage().worker()
  const api = await Api.start(stage(), OPEN)
  const { body } = await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'gone', webhook: url })
  expect(body.id).toBe('gone')
  // The server that followed it has stopped before it came to its end, or long after: it is told of once.
  await api.server.close()
  await stage().client().result('gone')
  const other = await Api.start(stage(), OPEN)
  expect((await other.call('DELETE', '/v1/rerank/jobs/gone')).status).toBe(200)
  await until('it was taken', () => taken.length === 1)
  expect(taken[0]?.event).toMatchObject({ type: 'rerank.job.completed', data: { id: 'gone' } })
  // The name is free again: what has it next is told of too.
  await other.post('/v1/rerank/jobs', { ...REQUEST, id: 'gone', webhook: url })
  await until('it was taken too', () => taken.length === 2)
  expect(taken[0]?.id).not.toBe(taken[1]?.id)
})

it('are told that a job was deleted before it was done', async () => {
  const { url, taken } = await receiver()
  const api = await Api.start(stage(), OPEN)
  await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'unwanted', webhook: url })
  await api.call('DELETE', '/v1/rerank/jobs/unwanted')
  await until('it was taken', () => taken.length === 1)
  expect(taken[0]?.event).toMatchObject({ type: 'rerank.job.cancelled', data: { id: 'unwanted' } })
})

it('are told of a job whose end no server saw', async () => {
  const { url, taken } = await receiver()
  const api = await Api.start(stage(), OPEN)
  await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'lost', webhook: url })
  await api.server.close()
  // As when its result expired before any server came back.
  const client = stage().client()
  await client.cancel('lost')
  await client.forget(['lost'])
  await Api.start(stage(), OPEN, { now: () => Date.now() + 600_000 })
  await until('it was taken', () => taken.length === 1)
  expect(taken[0]?.event).toMatchObject({ type: 'rerank.job.failed', data: { error: { code: 'request_lost' } } })
})

it('cannot be put on a job that was submitted without them', async () => {
  const { url } = await receiver()
  const api = await Api.start(stage(), OPEN)
  await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'plain' })
  const again = await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'plain', webhook: url })
  expect([again.status, again.body.error.code, again.body.error.param]).toEqual([409, 'conflict', 'webhook'])
  expect((await api.post('/v1/rerank/jobs', { ...REQUEST, id: 'plain' })).status).toBe(202)
})
