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
