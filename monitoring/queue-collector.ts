/** Depth and age of the queues, read from Redis when somebody scrapes. */
import { Gauge, type Registry } from 'prom-client'

const STATES = ['waiting', 'prioritized', 'active', 'delayed', 'failed'] as const

/** As much of BullMQ's Queue as is needed here. */
export interface ObservedQueue {
  readonly name: string
  getJobCounts(...states: (typeof STATES)[number][]): Promise<Record<string, number>>
  getWaiting(start: number, end: number): Promise<{ timestamp: number }[]>
  getPrioritized(start: number, end: number): Promise<{ timestamp: number }[]>
}

/**
 * Registers the gauges of a fleet's queues. Of all processes on them only one should report them, or sums over instances
 * count them several times: `reports` says whether this one does, asked at each scrape.
 */
export function collectQueues(
  registry: Registry,
  queues: readonly ObservedQueue[],
  reports: () => boolean,
  now: () => number,
): void {
  new Gauge({
    name: 'rankmill_queue_jobs',
    help: 'Jobs in the queue, by state',
    labelNames: ['queue', 'state'],
    registers: [registry],
    async collect() {
      this.reset()
      if (!reports()) return
      for (const queue of queues) {
        const counts = await queue.getJobCounts(...STATES).catch(() => undefined)
        for (const state of counts ? STATES : []) this.set({ queue: queue.name, state }, counts?.[state] ?? 0)
      }
    },
  })
  new Gauge({
    name: 'rankmill_queue_oldest_wait_seconds',
    help: 'How long the next waiting job, or the next of those with a priority, has waited',
    labelNames: ['queue'],
    registers: [registry],
    async collect() {
      this.reset()
      if (!reports()) return
      for (const queue of queues) {
        const heads = await Promise.all([queue.getWaiting(0, 0), queue.getPrioritized(0, 0)]).catch(() => undefined)
        const waits = heads?.flat().map((job) => (now() - job.timestamp) / 1000)
        if (waits) this.set({ queue: queue.name }, Math.max(0, ...waits))
      }
    },
  })
}
