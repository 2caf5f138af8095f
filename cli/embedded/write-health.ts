/**
 * Whether what a Redis writes can be read again. Redis 7.0 that could not write to a full disk may cut its append-only file in the
 * wrong place, and write on behind that when there is room; it knows everything still, so it is asked to write all of it anew.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import type { Redis } from 'ioredis'
import { infoField } from '../../shared/redis/connection.js'

/** What Redis says when it can write again: its state in between may be over before anybody asks. */
const SOLVED = 'AOF write error looks solved'

export class WriteHealth {
  readonly #log: string
  /** Of the log, what was read. */
  #bytes: number
  #state: 'sound' | 'damaged' | 'being rewritten' = 'sound'

  /** @param log where Redis logs to; what it said before does not count */
  constructor(log: string) {
    this.#log = log
    this.#bytes = 0
    this.#said()
  }

  /** To be called often; never throws. */
  async look(connection: Redis): Promise<void> {
    if (this.#said().includes(SOLVED)) this.#state = 'damaged'
    if (this.#state === 'sound') return
    try {
      const info = await connection.info('persistence')
      if (infoField(info, 'aof_rewrite_in_progress') === '1') return
      const isRewritten = this.#state === 'being rewritten' && infoField(info, 'aof_last_bgrewrite_status') === 'ok'
      this.#state = isRewritten ? 'sound' : 'being rewritten'
      if (!isRewritten) await connection.bgrewriteaof()
    } catch {
      // It has ended, or there is no room again: the next look finds out.
    }
  }

  /** Since it was last asked. */
  #said(): string {
    let file: number
    try {
      file = openSync(this.#log, 'r')
    } catch {
      // In a container it logs elsewhere.
      return ''
    }
    try {
      const buffer = Buffer.alloc(Math.max(0, fstatSync(file).size - this.#bytes))
      this.#bytes += readSync(file, buffer, 0, buffer.length, this.#bytes)
      return buffer.toString()
    } finally {
      closeSync(file)
    }
  }
}
