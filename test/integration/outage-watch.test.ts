/** What is said of a Redis that goes and comes back. */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { expect, it } from 'vitest'
import { connectWorker } from '../../shared/redis/connection.js'
import { OutageWatch } from '../../shared/redis/outage-watch.js'
import { REDIS_URL, until, useStage } from './stage.js'

const stage = useStage()

/** A way to the run's Redis that can be shut and opened again. */
class Gate {
  readonly #sockets = new Set<Socket>()
  readonly #server: Server = createServer((from) => {
    const { port, hostname, searchParams } = new URL(REDIS_URL)
    const path = searchParams.get('path')
    const to = path === null ? connect(Number(port || 6379), hostname) : connect(path)
    for (const socket of [from, to]) {
      this.#sockets.add(socket)
      socket.on('error', () => undefined).on('close', () => from.destroy() && to.destroy())
    }
    from.pipe(to).pipe(from)
  })
  #port = 0

  async open(): Promise<number> {
    this.#server.listen(this.#port, '127.0.0.1')
    await once(this.#server, 'listening')
    const address = this.#server.address()
    this.#port = typeof address === 'object' && address ? address.port : 0
    return this.#port
  }

  async shut(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}

it('is one line when it goes and one when it is back; complaints meanwhile are none', async () => {
  const gate = new Gate()
  const redis = await connectWorker({ redis: `redis://127.0.0.1:${await gate.open()}`, prefix: '{test}' })
  stage().onEnd(() => redis.disconnect())
  const said: string[] = []
  const outage = new OutageWatch(redis, (line) => said.push(line))
  await gate.shut()
  for (let i = 0; i < 20; i++) outage.report('ECONNREFUSED', () => said.push('ECONNREFUSED'))
  await until('it is said', () => said.length > 0)
  await gate.open()
  await until('it is back', () => said.length > 1)
  expect(said).toEqual(['Redis is away: waiting for it', expect.stringMatching(/^Redis is back after \d+ s$/)])
  // Whoever meets it.
  for (let i = 0; i < 20; i++) outage.report('another fault', () => said.push('another fault'))
  await until('other faults are reported', () => said.at(-1) === 'another fault')
  outage.report('a third', () => said.push('a third'))
  await until('the next is reported', () => said.at(-1) === 'a third')
  redis.disconnect()
  await gate.shut()
  expect(said).toHaveLength(4)
})
