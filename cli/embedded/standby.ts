/** Watches over workers that somebody else started. */
import { HEARTBEAT_MS } from '../../shared/redis/worker-registry.js'
import { describeError, EXIT, exitCodeOf, note } from '../exit.js'

/** Steps in when the last of somebody else's workers goes, so that nobody waits for ever. */
export class Standby {
  readonly #timer: NodeJS.Timeout
  #looking: Promise<void> | undefined

  constructor(alive: () => Promise<number>, stepIn: () => Promise<void>) {
    const look = async () => {
      if ((await alive()) > 0) return
      clearInterval(this.#timer)
      await stepIn()
    }
    this.#timer = setInterval(() => {
      this.#looking ??= look()
        .catch((error) => {
          // While Redis is away nobody can be looked for, and it is said elsewhere that it is.
          if (exitCodeOf(error) !== EXIT.redis) note(`rankmill: looking for workers: ${describeError(error)}`)
        })
        .finally(() => {
          this.#looking = undefined
        })
    }, HEARTBEAT_MS)
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#looking
  }
}
