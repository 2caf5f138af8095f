/** What arrives when nobody means well: raw bytes over sockets. */
import { connect, type Socket } from 'node:net'
import { describe, expect, it } from 'vitest'
import { Api } from './api.js'
import { until, useStage } from './stage.js'

const stage = useStage()

async function dial(api: Api): Promise<{ socket: Socket; said: () => string; isClosed: () => boolean }> {
  const { hostname, port } = new URL(api.url)
  const socket = connect(Number(port), hostname)
  let text = ''
  let closed = false
  socket.on('data', (chunk) => {
    text += String(chunk)
  })
  socket.on('close', () => {
    closed = true
  })
  socket.on('error', () => undefined)
  await new Promise((resolve) => socket.once('connect', resolve))
  stage().onEnd(() => socket.destroy())
  return { socket, said: () => text, isClosed: () => closed }
}

const BODY = JSON.stringify({ query: 'q', documents: ['a'] })

describe('hostile callers', () => {
  it('who dribble a body lose their connection, and nobody else does', async () => {
    const api = await Api.start(stage(), { bodyTimeoutMs: 300 })
    const { socket, isClosed } = await dial(api)
    socket.write(
      'POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"query"',
    )
    await until('the connection is closed', isClosed, 5000)
    expect((await api.get('/healthz')).status).toBe(200)
  })

  it('may hold a thousand idle connections', async () => {
    const api = await Api.start(stage())
    await Promise.all(Array.from({ length: 1000 }, () => dial(api)))
    expect((await api.get('/healthz')).status).toBe(200)
  })

  it.each([
    ['two lengths', `POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello`],
    [
      'a length and chunks',
      `POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n`,
    ],
    ['a folded encoding', `POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n`],
    ['a strange encoding', `POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`],
    ['a bare newline in a header', `GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\nSet-Cookie: b=c\r\n\r\n`],
    ['no host', `GET /healthz HTTP/1.1\r\n\r\n`],
    ['headers without end', `GET /healthz HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(100_000)}\r\n\r\n`],
    ['no HTTP', `\x16\x03\x01\x02\x00\x01\x00`],
  ])('with %s are refused', async (_what, bytes) => {
    const api = await Api.start(stage())
    const { socket, said, isClosed } = await dial(api)
    socket.write(bytes)
    await until('it is refused', () => /^HTTP\/1\.1 4\d\d/.test(said()) || isClosed(), 5000)
    expect(said().match(/HTTP\/1\.1/g) ?? []).toHaveLength(said() === '' ? 0 : 1)
    expect(said()).not.toMatch(/200 OK|set-cookie/i)
  })

  it('cannot put headers into answers', async () => {
    const api = await Api.start(stage())
    const id = await api.post('/v1/rerank', '{', { 'x-request-id': 'a b<script>' })
    expect(id.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/)
    const key = await api.post('/v1/rerank/jobs', BODY, { 'idempotency-key': 'a\u00a0b' })
    expect(key.headers.get('location')).toBe('/v1/rerank/jobs/a%C2%A0b')
    expect((await api.get('/v1/rerank/jobs/x%0d%0aSet-Cookie:%20a=b')).headers.get('set-cookie')).toBeNull()
  })

  it.each([
    '/../../etc/passwd',
    '/page/..%2f..%2fpackage.json',
    '/docs/..%2f..%2f',
    '/queues/static/..%2f..%2f..%2fpackage.json',
    '//healthz',
    '/v1/files/%2e%2e%2f/content',
  ])('find no file at %s', async (path) => {
    const api = await Api.start(stage())
    const { socket, said } = await dial(api)
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    await until('it answers', () => said().includes('\r\n\r\n'))
    expect(said()).toMatch(/^HTTP\/1\.1 (400|403|404)/)
    expect(said()).not.toContain('root:')
  })

  it('learn nothing of the inside', async () => {
    const api = await Api.start(stage())
    for (const path of ['/v1/rerank', '/v1/batches', '/rerank']) {
      const { body } = await api.post(path, '{"a":{"b":')
      expect(JSON.stringify(body)).not.toMatch(/node_modules|\.js:|at .*\(/)
    }
  })
})
