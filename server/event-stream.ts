/** Server-sent events of something that changes until it is over. An event's id is the state that it tells of. */
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { callerGone } from './caller-gone.js'

export interface Told {
  /** Same state, same id: a client that comes back with it is told only what is new. */
  readonly id: string
  readonly event: string
  readonly data: object
  readonly isOver: boolean
}

/** A comment this often keeps proxies from closing the connection. */
const ALIVE_MS = 15_000
/** A look that comes back at once is not repeated at once. */
const LOOK_MS = 250

/**
 * Tells until it is over, the client leaves, or its key is revoked; `Last-Event-ID` leaves out what the client knows. The
 * first look comes before the first byte, so that its errors are ordinary answers.
 *
 * @param look at the present state; it may wait a while for another one unless it is the first look
 */
export async function eventStream(
  request: FastifyRequest,
  reply: FastifyReply,
  look: (isFirst: boolean) => Promise<Told>,
): Promise<void> {
  const first = await look(true)
  const gone = callerGone(reply)
  const closing = request.server.closingSignal
  const { raw } = reply
  reply.hijack()
  raw.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
    'x-request-id': request.id,
  })
  let known = String(request.headers['last-event-id'] ?? '')
  let saidAt = Date.now()
  try {
    for (let told = first; !gone.aborted && !closing.aborted; told = await look(false)) {
      if (told.id !== known || told.isOver) {
        raw.write(`id: ${told.id}\nevent: ${told.event}\ndata: ${JSON.stringify(told.data)}\n\n`)
        known = told.id
        saidAt = Date.now()
      } else if (Date.now() - saidAt > ALIVE_MS) {
        raw.write(': alive\n\n')
        saidAt = Date.now()
      }
      if (told.isOver) break
      await delay(LOOK_MS, undefined, { signal: gone }).catch(() => undefined)
      await request.server.checkCaller(request)
    }
  } finally {
    // What went wrong on the way is learnt by coming back: the client does so by itself.
    raw.end()
  }
}
