/** Answers to what is not HTTP, or no longer: broken requests, headers without end, callers that are too slow. */
import type { Socket } from 'node:net'
import { RankmillError } from '../shared/errors.js'
import { errorBody } from './dialects/dialect.js'
import type { UnusedConnections } from './unused-connections.js'

/** Of node:http's parser, those that are not just broken. */
const KNOWN: Readonly<Record<string, ['headers_too_large' | 'request_timeout', string]>> = {
  HPE_HEADER_OVERFLOW: ['headers_too_large', 'the headers are longer than 16 KiB'],
  ERR_HTTP_REQUEST_TIMEOUT: ['request_timeout', 'the request did not come in time'],
}
const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
}

export function clientErrors(unused: UnusedConnections) {
  return (cause: Error & { code?: string }, socket: Socket): void => {
    if (cause.code !== 'ERR_HTTP_REQUEST_TIMEOUT' || !unused.keeps(socket)) answer(cause, socket)
  }
}

function answer(cause: Error & { code?: string }, socket: Socket): void {
  // An answer that has begun is not followed by another: the caller could take it for that of its next request.
  const { _httpMessage: begun } = socket as { _httpMessage?: { headersSent: boolean } }
  if (cause.code !== 'ECONNRESET' && socket.writable && !begun?.headersSent) {
    const [code, message] = KNOWN[cause.code ?? ''] ?? ['invalid_request', 'the request is not well-formed HTTP']
    const error = new RankmillError(code, message)
    const body = JSON.stringify(errorBody(error, 'none'))
    const head = [
      `HTTP/1.1 ${error.status} ${REASONS[error.status]}`,
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
      'connection: close',
    ]
    socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
  }
  socket.destroySoon()
}
