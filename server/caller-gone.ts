/** When a caller hangs up before its answer was sent. */
import type { FastifyReply } from 'fastify'

/** Aborted when the connection ends without the whole answer; never after it. */
export function callerGone({ raw }: FastifyReply): AbortSignal {
  const gone = new AbortController()
  raw.once('close', () => {
    if (!raw.writableFinished) gone.abort()
  })
  return gone.signal
}
