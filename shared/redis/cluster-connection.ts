/**
 * A connection to the node of a Redis Cluster that has the slot of a prefix. It follows the slot: where another node has it
 * (MOVED), the connection is made anew, to that one. While a slot moves, a script needs keys of which some have moved and
 * some have not, and no node can run it (ASK, TRYAGAIN): commands wait until all have. What was refused so was not carried
 * out, and is sent again without harm.
 */
import { createConnection, Socket } from 'node:net'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import { AbstractConnector, type Command, Redis, type RedisOptions } from 'ioredis'
import type { SlotOwner } from './slot-owner.js'
import { backoffMs } from './until-passes.js'

const MOVING = /^(ASK|TRYAGAIN|CLUSTERDOWN) /
const REFUSED = /^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN) /
/** A node that is down by its own account is left for what others say, so often at most. */
const LEAVE_AGAIN_MS = 1000

type Writable = Parameters<Redis['sendCommand']>[1]
/** Of the replies' shape nothing is asked but the usual one. */
export type RedisSettings = Omit<RedisOptions, 'replyMapping'>

export class ClusterConnection extends Redis {
  readonly #owner: SlotOwner
  readonly #settings: RedisSettings
  /** Those whose refusals are looked at already. */
  readonly #followed = new WeakSet<Command>()
  #isLeaving = false
  #leftAt = Number.NEGATIVE_INFINITY

  constructor(owner: SlotOwner, settings: RedisSettings) {
    super({ ...settings, Connector: connectorTo(owner) })
    this.#owner = owner
    this.#settings = settings
    this.on('close', () => {
      this.#isLeaving = false
    })
  }

  override duplicate(override: Partial<RedisSettings> = {}): Redis {
    return new ClusterConnection(this.#owner, { ...this.#settings, ...override })
  }

  override sendCommand(command: Command, stream?: Writable): unknown {
    // The constructor of Redis may send before there are fields here; it sends nothing that could be refused so.
    if (!this.#followed.has(command)) {
      this.#followed.add(command)
      const reject = command.reject
      let refusals = 0
      command.reject = (error) => {
        if (command.inTransaction) reject.call(command, this.#discarded(error))
        else if (!this.#mayCome(command, error, ++refusals)) reject.call(command, error)
      }
    }
    return super.sendCommand(command, stream)
  }

  /** A transaction is made again as a whole, by its caller, or not at all. @returns what is said of it */
  #discarded(error: Error): Error {
    if (!REFUSED.test(error.message)) return error
    if (error.message.startsWith('MOVED ')) this.#leave()
    return new Error('TRYAGAIN The slot moved while a transaction was made')
  }

  /** @returns whether the command goes on after all */
  #mayCome(command: Command, { message }: Error, refusals: number): boolean {
    if (message.startsWith('MOVED ')) {
      this.#leave()
      super.sendCommand(command)
      return true
    }
    if (!MOVING.test(message)) return false
    if (message.startsWith('CLUSTERDOWN') && performance.now() - this.#leftAt > LEAVE_AGAIN_MS) {
      this.#owner.suspect()
      this.#leave()
    }
    setTimeout(() => {
      if (!command.isSettled) super.sendCommand(command)
    }, backoffMs(refusals))
    return true
  }

  /** Once for all the commands that were refused. */
  #leave(): void {
    if (this.#isLeaving || this.status !== 'ready') return
    this.#isLeaving = true
    this.#leftAt = performance.now()
    this.disconnect(true)
  }
}

interface ConnectorOptions {
  readonly disconnectTimeout: number
  readonly tls?: ConnectionOptions | true
}

/** What opens the socket, and chooses where it leads, each time that the connection is made. */
function connectorTo(owner: SlotOwner): NonNullable<RedisOptions['Connector']> {
  return class SlotConnector extends AbstractConnector {
    readonly #tls: ConnectorOptions['tls']
    #wasOpened = false

    constructor(options: unknown) {
      const { disconnectTimeout, tls } = options as ConnectorOptions
      super(disconnectTimeout)
      this.#tls = tls
    }

    override check(info: { role?: string }): boolean {
      return info.role !== 'slave'
    }

    async connect(): Promise<Socket> {
      this.connecting = true
      try {
        const node = await owner.find(this.#wasOpened)
        this.stream = this.#tls
          ? connectTls({ ...(this.#tls === true ? {} : this.#tls), ...node })
          : createConnection({ ...node })
        this.stream.once('error', (error) => {
          this.firstError = error
        })
        // It was closed while the cluster was asked.
        if (!this.connecting) this.stream.destroy()
      } catch (error) {
        // Taken for a connection that failed: made again as every other is.
        this.firstError = error as Error
        this.stream = new Socket().destroy()
      }
      this.#wasOpened = true
      return this.stream
    }
  }
}
