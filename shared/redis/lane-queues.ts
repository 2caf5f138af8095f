/** The BullMQ queues of both lanes over one connection. */
import { Queue } from 'bullmq'
import type { Redis } from 'ioredis'
import type { RerankJob } from '../protocol/job.js'
import { LANES, type Lane, queueName } from '../protocol/lanes.js'

export class LaneQueues {
  /** Interactive first. */
  readonly all: readonly Queue<RerankJob>[]
  readonly #byLane: ReadonlyMap<Lane, Queue<RerankJob>>

  /** Connection errors are told by `onError`; commands report theirs themselves. */
  constructor(
    redis: Redis,
    { prefix, queue }: { readonly prefix: string; readonly queue: string },
    onError: (error: Error) => void = () => undefined,
  ) {
    this.#byLane = new Map(
      LANES.map((lane) => [
        lane,
        new Queue<RerankJob>(queueName(queue, lane), { connection: redis, prefix, skipVersionCheck: true }),
      ]),
    )
    this.all = [...this.#byLane.values()]
    for (const each of this.all) each.on('error', onError)
  }

  of(lane: Lane): Queue<RerankJob> {
    const queue = this.#byLane.get(lane)
    if (!queue) throw new Error(`no lane "${lane}"`)
    return queue
  }

  async close(): Promise<void> {
    await Promise.all(this.all.map((queue) => queue.close()))
  }
}
