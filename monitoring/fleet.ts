/** One view over several worker processes: their metrics added up, their health taken together. */
import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue, Registry } from 'prom-client'
import type { Shard } from '../shared/redis/shards.js'
import { collectQueues } from './queue-collector.js'

/** A registry's contents as plain data, as it travels between processes. */
export type MetricsSnapshot = MetricObjectWithValues<MetricValue<string>>[]

/** Workers report the queues too when they are scraped one by one; here they are reported once, by the fleet. */
const REPORTED_BY_FLEET = /^rankmill_(queue_|workers$|requests_total$|failures_total$)/

export class FleetMetrics {
  readonly #own = new Registry()
  readonly #snapshots: () => Promise<MetricsSnapshot[]>

  constructor(shards: { readonly all: readonly Shard[] }, snapshots: () => Promise<MetricsSnapshot[]>) {
    collectQueues(this.#own, shards, () => true)
    this.#snapshots = snapshots
  }

  get contentType(): string {
    return this.#own.contentType
  }

  /** Prometheus's text format. */
  async text(): Promise<string> {
    const merged = await this.#merged()
    return `${await merged.metrics()}\n${await this.#own.metrics()}`
  }

  /** Sum of a counter or histogram count over all workers, with labels that must match. */
  async total(name: string, labels: Record<string, string> = {}): Promise<number> {
    const snapshot = (await (await this.#merged()).getMetricsAsJSON()) as MetricsSnapshot
    const values = snapshot.filter((metric) => name.startsWith(metric.name)).flatMap((metric) => metric.values)
    return values
      .filter((v) => ((v as { metricName?: string }).metricName ?? name) === name)
      .filter((v) => Object.entries(labels).every(([key, value]) => v.labels[key] === value))
      .reduce((sum, v) => sum + v.value, 0)
  }

  async #merged(): Promise<Registry> {
    const snapshots = await this.#snapshots()
    const own = snapshots.map((snapshot) => snapshot.filter((metric) => !REPORTED_BY_FLEET.test(metric.name)))
    return AggregatorRegistry.aggregate(own)
  }
}
