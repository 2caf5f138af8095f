/**
 * Whether what a Redis writes can be read again. Redis 7.0 that could not write to a full disk may cut its append-only file in the
 * wrong place, and write on behind that when there is room; it knows everything still, so it is asked to write all of it anew.
 */
import type { Redis } from 'ioredis'
import { infoField } from '../../shared/redis/connection.js'

export class WriteHealth {
  #state: 'sound' | 'damaged' | 'being rewritten' = 'sound'

  /** To be called often; never throws. */
  async look(connection: Redis): Promise<void> {
    try {
      const info = await connection.info('persistence')
      if (infoField(info, 'aof_last_write_status') !== 'ok') {
        this.#state = 'damaged'
        return
      }
      if (this.#state === 'sound' || infoField(info, 'aof_rewrite_in_progress') === '1') return
      const isRewritten = this.#state === 'being rewritten' && infoField(info, 'aof_last_bgrewrite_status') === 'ok'
      this.#state = isRewritten ? 'sound' : 'being rewritten'
      if (!isRewritten) await connection.bgrewriteaof()
    } catch {
      // It has ended, or says so elsewhere.
    }
  }
}
