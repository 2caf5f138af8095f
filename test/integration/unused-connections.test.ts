/** Connections that nobody has said anything on: no request is answered by the end of its connection's patience. */
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { clientErrors } from '../../server/client-errors.js'
import { UnusedConnections } from '../../server/unused-connections.js'
import { until } from './stage.js'

const HEADERS_MS = 100
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

/** A server as the API's, with less patience. */
async function serve(idleMs: number) {
  const unused = new UnusedConnections(idleMs)
  const server = createServer({ headersTimeout: HEADERS_MS, connectionsCheckingInterval: 10 }, (_request, response) =>
    response.end('answered'),
  )
  const timeouts: Socket[] = []
  const onError = clientErrors(unused)
  server.on('clientError', (error: Error & { code?: string }, socket: Socket) => {
    if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') timeouts.push(socket)
    onError(error, socket)
  })
  unused.watch(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  const dial = async () => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const heard = { text: '', closed: false }
    socket.on('data', (chunk) => {
      heard.text += String(chunk)
    })
    socket.on('close', () => {
      heard.closed = true
    })
    socket.on('error', () => undefined)
    await new Promise((resolve) => socket.once('connect', resolve))
    closers.push(() => socket.destroy())
    return { socket, heard }
  }
  return { server, unused, timeouts, dial }
}

it('are not told that a request is late, and can be used later than headers may be', async () => {
  const { timeouts, dial } = await serve(60_000)
  const { socket, heard } = await dial()
  await until('its time for headers is up', () => timeouts.length === 1)
  expect(heard).toEqual({ text: '', closed: false })
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await until('it is answered', () => heard.text.endsWith('answered'))
  // From then on it is one like any other: what begins a request and does not go on is too slow.
  socket.write('GET / HTTP/1.1\r\n')
  await until('it is closed', () => heard.closed)
  expect(heard.text.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 408'])
})

it('end without a word once they were idle long enough', async () => {
  const { dial } = await serve(50)
  const { heard } = await dial()
  await until('it is closed', () => heard.closed)
  expect(heard.text).toBe('')
})

it('are told where a request was begun on them', async () => {
  const { dial } = await serve(60_000)
  const { socket, heard } = await dial()
  socket.write('GET / HT')
  await until('it is closed', () => heard.closed)
  expect(heard.text).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n.*request_timeout/s)
})

it('hold up no server that closes', async () => {
  const { server, unused, dial } = await serve(60_000)
  const { heard } = await dial()
  const closed = new Promise((resolve) => server.close(resolve))
  unused.close()
  await closed
  await until('it is closed', () => heard.closed)
})
