/**
 * Connections on which nothing was said yet. Callers open them ahead of a request, or hang up before they ask and keep the
 * connection for the next one. Node takes them for requests that are too slow with their headers, and would answer 408; who
 * sends its request at that moment would take that for the answer. They are idle: as connections between two requests they
 * have their time, and end without a word.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'

export class UnusedConnections {
  readonly #sockets = new Set<Socket>()
  readonly #idleMs: number

  /** @param idleMs how long one may stay so once its time for headers is up */
  constructor(idleMs: number) {
    this.#idleMs = idleMs
  }

  watch(server: Server): void {
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    server.on('request', ({ socket }) => this.#sockets.delete(socket))
  }

  /** Whether the connection is one; then it stays for a while more. */
  keeps(socket: Socket): boolean {
    if (socket.bytesRead > 0) return false
    const timer = setTimeout(() => {
      if (socket.bytesRead === 0) socket.destroy()
    }, this.#idleMs).unref()
    socket.once('close', () => clearTimeout(timer))
    return true
  }

  /** Ends them: a server that closes waits for who was promised an answer. */
  close(): void {
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
  }
}
