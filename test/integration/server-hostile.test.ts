/** What arrives when nobody means well: raw bytes over sockets. */
import { readdirSync } from 'node:fs'
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
      'POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"query"',
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
    [
      'two lengths',
      `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
    ],
    [
      'a length and chunks',
      `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n`,
    ],
    [
      'a folded encoding',
      `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n`,
    ],
    [
      'a strange encoding',
      `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
    ],
    [
      'a bare newline in a header',
      `GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\nSet-Cookie: b=c\r\n\r\n`,
    ],
    ['no host', `GET /healthz HTTP/1.1\r\n\r\n`],
    ['headers without end', `GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ${'a'.repeat(100_000)}\r\n\r\n`],
    ['a negative length', `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nhello`],
    ['a space before a colon', `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello`],
    ['bare newlines', `GET /healthz HTTP/1.1\nHost: localhost\n\n`],
    ['a path that is none', `GET /v1/models/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n`],
    ['no HTTP', `\x16\x03\x01\x02\x00\x01\x00`],
  ])('with %s are refused', async (_what, bytes) => {
    const api = await Api.start(stage())
    const { socket, said, isClosed } = await dial(api)
    socket.write(bytes)
    await until('it is refused', () => /^HTTP\/1\.1 4\d\d/.test(said()) || isClosed(), 5000)
    expect(said().match(/HTTP\/1\.1/g) ?? []).toHaveLength(said() === '' ? 0 : 1)
    expect(said()).not.toMatch(/200 OK|set-cookie/i)
    const body = said().split('\r\n\r\n')[1]
    // Who names no host is answered by Node itself, without a body.
    if (body?.startsWith('{'))
      expect(JSON.parse(body).error).toMatchObject({ code: expect.any(String), message: expect.any(String) })
  })

  it('do not get a broken request’s error for the answer of the one before it', async () => {
    const api = await Api.start(stage())
    const { socket, said, isClosed } = await dial(api)
    const first = `POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`
    socket.write(`${first}NOT HTTP\r\n\r\n`)
    await until('the connection is closed', isClosed)
    expect(said()).not.toContain('200 OK')
    // Nobody works: what the caller left is cancelled, not left behind.
    await until('nothing waits', async () => (await stage().queued('interactive')) === 0)
  })

  it('may send requests one behind the other, and speak HTTP of old', async () => {
    const api = await Api.start(stage())
    const { socket, said, isClosed } = await dial(api)
    const ask = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n`
    socket.write(`${ask('/v1/nothing')}\r\n${ask('/v1/models')}\r\n${ask('/healthz')}Connection: close\r\n\r\n`)
    await until('all are answered', isClosed)
    expect(said().match(/HTTP\/1\.1 (\d+)/g)).toEqual(['HTTP/1.1 404', 'HTTP/1.1 200', 'HTTP/1.1 200'])
    const old = await dial(api)
    old.socket.write('GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n')
    await until('it is answered', old.isClosed)
    expect(old.said()).toMatch(/^HTTP\/1\.1 200/)
  })

  it.each(['OPTIONS', 'TRACE', 'CONNECT', 'PROPFIND', 'HEAD'])('get no further with %s', async (method) => {
    const api = await Api.start(stage())
    const { socket, said, isClosed } = await dial(api)
    socket.write(`${method} /v1/rerank HTTP/1.1\r\nHost: localhost\r\nX-Secret: s3cret\r\nConnection: close\r\n\r\n`)
    await until('it is refused', isClosed, 5000)
    expect(said()).toMatch(/^(HTTP\/1\.1 4\d\d|$)/)
    expect(said()).not.toContain('s3cret')
  })

  it('leave nothing behind when they break off an upload', async () => {
    const api = await Api.start(stage())
    const { socket } = await dial(api)
    const head = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    socket.write(
      `POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n${head}${'x'.repeat(200_000)}`,
    )
    const folder = `.cache/test-server/${stage().prefix.replace(/\W/g, '')}/files`
    const held = () => readdirSync(folder).length
    await until('it has begun', () => held() > 0)
    socket.destroy()
    await until('nothing is left of it', () => held() === 0)
    expect((await api.get('/v1/files')).body.data).toEqual([])
  })

  it('cannot say numbers that are none, nor fields that nobody knows', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    for (const [field, value] of [
      ['top_n', '-1'],
      ['top_n', '1e999'],
      ['top_n', '1.5'],
      ['top_n', '"3"'],
      ['top_n', 'true'],
      ['priority', '-1'],
      ['deadline_ms', '0'],
      ['deadline_ms', '-1e999'],
      ['max_tokens_per_doc', '99999999999999999999'],
      ['documents', '[{"text":"a","score":1e999}]'],
      ['documents', '[["a"]]'],
      ['documents', '{"corpus":"../x","ids":["a"]}'],
      ['documents', '{"corpus":"c","ids":["a"],"scores":[1e999]}'],
      ['query', '["q"]'],
      ['model', '"a/../../etc/passwd\\u0000"'],
      ['strategy', '{"dtype":"nonsense"}'],
      ['constructor', '1'],
      ['__proto__', '{"top_n":1}'],
    ]) {
      const fields = Object.entries({ query: '"q"', documents: '["a"]', [`${field}`]: value })
      const { status, body } = await api.post('/v1/rerank', `{${fields.map(([key, given]) => `"${key}":${given}`)}}`)
      expect([value, status >= 400 && status < 500, body.error?.code]).toEqual([
        value,
        true,
        expect.stringMatching(/^(invalid_request|unknown_corpus|unknown_model)$/),
      ])
    }
    expect(({} as { top_n?: number }).top_n).toBeUndefined()
  })

  it('come back to events with ids that never were, and are told all of it', async () => {
    await stage().worker()
    const api = await Api.start(stage())
    const { body } = await api.post('/v1/rerank/jobs?wait=20s', BODY)
    for (const id of ['nonsense', '-1', 'completed\u00ff', 'x'.repeat(4000)]) {
      const events = await api.get(`/v1/rerank/jobs/${body.id}/events`, { 'last-event-id': id })
      expect(events.body).toMatch(/^id: completed\nevent: end\ndata: \{/)
    }
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
    socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
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

describe('pages of others', () => {
  it('reach no server that asks nobody for a key, under any name and from any origin', async () => {
    const api = await Api.start(stage())
    const raw = async (headers: string) => {
      const { socket, said, isClosed } = await dial(api)
      socket.write(`GET /v1/models HTTP/1.1\r\n${headers}\r\nConnection: close\r\n\r\n`)
      await until('it is answered', isClosed)
      return /^HTTP\/1\.1 (\d+)/.exec(said())?.[1]
    }
    for (const host of ['localhost', 'LOCALHOST:8080', '127.0.0.1', '127.9.9.9:1', '[::1]:8080']) {
      expect([host, await raw(`Host: ${host}`)]).toEqual([host, '200'])
    }
    for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example:8080', '10.0.0.1', '']) {
      expect([host, await raw(`Host: ${host}`)]).toEqual([host, '403'])
    }
    const local = 'Host: localhost\r\nOrigin: '
    expect(await raw(`${local}http://localhost:8080`)).toBe('200')
    for (const origin of ['http://evil.example', 'null', 'nonsense', 'http://localhost.evil.example']) {
      expect([origin, await raw(`${local}${origin}`)]).toEqual([origin, '403'])
    }
    const named = await Api.start(stage(), { hosts: 'rerank.example' })
    expect((await named.get('/v1/models', { host: 'rerank.example' })).status).toBeLessThan(500)
  })
})
