import { expect, it } from 'vitest'
import { serveMonitoring } from '../../../monitoring/server.js'

const health = () => ({ ok: true, checks: {} })
const SOURCES = { contentType: 'text/plain', metrics: async () => '', alive: health, ready: health }
const portOf = ({ url }: { url: string }) => Number(new URL(url).port)

it('takes the next free port where nobody named one, and refuses with the flag that did', async () => {
  const first = await serveMonitoring(SOURCES, '127.0.0.1', { port: 0 })
  const port = portOf(first)
  const second = await serveMonitoring(SOURCES, '127.0.0.1', { port, orNext: true })
  expect(portOf(second)).toBeGreaterThan(port)
  await expect(serveMonitoring(SOURCES, '127.0.0.1', { port, flag: '--port' })).rejects.toMatchObject({
    code: 'invalid_configuration',
    message: expect.stringContaining(`--port: cannot listen on 127.0.0.1:${port}`),
  })
  await Promise.all([first.close(), second.close()])
})

it('answers what monitors ask, and says what is wrong', async () => {
  const server = await serveMonitoring(
    {
      contentType: 'text/plain; version=0.0.4',
      metrics: async () => 'rankmill_pairs 1\n',
      alive: () => ({ ok: true, checks: { inference: 'progressing' } }),
      ready: async () => ({ ok: false, checks: { model: 'loading' } }),
    },
    '127.0.0.1',
    { port: 0 },
  )
  const ask = async (path: string, method = 'GET') => {
    const response = await fetch(`${server.url}${path}`, { method })
    return [response.status, response.headers.get('content-type'), await response.text()] as const
  }
  expect(await ask('/metrics?name=up')).toEqual([200, 'text/plain; version=0.0.4', 'rankmill_pairs 1\n'])
  expect(await ask('/healthz')).toEqual([
    200,
    expect.stringContaining('json'),
    '{"ok":true,"checks":{"inference":"progressing"}}',
  ])
  expect(await ask('/readyz')).toEqual([503, expect.stringContaining('json'), expect.stringContaining('loading')])
  expect(await ask('/healthz', 'HEAD')).toEqual([200, expect.stringContaining('json'), ''])
  expect((await ask('/healthz', 'POST'))[0]).toBe(404)
  expect((await ask('/'))[0]).toBe(404)
  await server.close()
})

it('says of metrics that cannot be read that they cannot, and goes on', async () => {
  const metrics = async () => {
    throw new Error('Redis is gone')
  }
  const server = await serveMonitoring({ ...SOURCES, metrics }, '127.0.0.1', { port: 0 })
  const response = await fetch(`${server.url}/metrics`)
  expect([response.status, await response.text()]).toEqual([500, expect.stringContaining('Redis is gone')])
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200)
  await server.close()
})
