/** A TCP proxy in front of a Redis, which can be told to fail as networks do. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export type ProxyMode =
  /** Forwards. */
  | 'pass'
  /** Half-open: accepts and reads, forwards nothing either way, closes nothing. Connections that met it stay so. */
  | 'stall'
  /** Forwards what is sent and nothing that comes back. */
  | 'deaf'
  /** Resets every connection, and each new one at once. */
  | 'cut'

export class FaultyProxy {
  /** Held back on the way, each way, in ms. */
  latencyMs = 0
  /** Connections that were made so far. */
  accepted = 0
  /** The port that new connections lead to, as a name does after a failover. */
  target: number
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #stalled = new WeakSet<Socket>()
  #mode: ProxyMode = 'pass'

  static async start(targetPort: number): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(targetPort)
    proxy.#server.listen(0, '127.0.0.1')
    await once(proxy.#server, 'listening')
    return proxy
  }

  private constructor(targetPort: number) {
    this.target = targetPort
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket))
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  set mode(mode: ProxyMode) {
    this.#mode = mode
    if (mode === 'cut') for (const socket of this.#sockets) socket.resetAndDestroy()
    if (mode === 'stall') for (const socket of this.#sockets) this.#stalled.add(socket)
  }

  async close(): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
  }

  #accept(client: Socket): void {
    this.accepted++
    if (this.#mode === 'cut') return void client.resetAndDestroy()
    const server = connect({ port: this.target, host: '127.0.0.1', allowHalfOpen: true })
    this.#join(client, server, () => true)
    this.#join(server, client, () => this.#mode !== 'deaf')
  }

  #join(from: Socket, to: Socket, hears: () => boolean): void {
    this.#sockets.add(from)
    if (this.#mode === 'stall') this.#stalled.add(from)
    // One after the other, whatever the latency becomes meanwhile.
    let last = Promise.resolve()
    const forward = (pass: () => void) => {
      const dueAt = performance.now() + this.latencyMs
      last = last.then(async () => {
        const waitMs = dueAt - performance.now()
        if (waitMs > 0) await delay(waitMs)
        if (!this.#stalled.has(from)) pass()
      })
    }
    from.on('data', (data) =>
      forward(() => {
        if (hears()) to.write(data)
      }),
    )
    from.on('end', () => forward(() => void to.end()))
    from.on('error', () => undefined)
    from.on('close', () => {
      this.#sockets.delete(from)
      forward(() => void to.destroy())
    })
  }
}
