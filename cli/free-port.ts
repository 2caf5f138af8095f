/** A port that somebody named, looked at before anything is started that would have to be stopped again for it. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { RankmillError } from '../shared/errors.js'

/** @throws RankmillError `invalid_configuration` where nothing can listen there */
export async function checkPort(host: string, port: number): Promise<void> {
  const probe = createServer()
  try {
    await once(probe.listen({ host, port }), 'listening')
    probe.close()
    await once(probe, 'close')
  } catch (error) {
    const isTaken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
    const why = isTaken ? 'another process listens there; --port 0 takes one that is free' : (error as Error).message
    const message = `--port: cannot listen on ${host}:${port}: ${why}`
    throw new RankmillError('invalid_configuration', message, { param: 'port' }, { cause: error })
  }
}
