/** What an API server measures of itself, under the names of docs/metrics.md. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

export class HttpMetrics {
  readonly registry = new Registry()
  readonly #requests = new Counter({
    name: 'rankmill_http_requests_total',
    help: 'API requests answered, by route and status',
    labelNames: ['method', 'route', 'status'],
    registers: [this.registry],
  })
  readonly #duration = new Histogram({
    name: 'rankmill_http_request_duration_seconds',
    help: 'From the first byte of an API request to the last of its answer',
    labelNames: ['route'],
    buckets: SECONDS,
    registers: [this.registry],
  })
  readonly waiting = new Gauge({
    name: 'rankmill_http_waiting_requests',
    help: 'API requests that wait for their result just now',
    registers: [this.registry],
  })
  readonly webhooks = new Counter({
    name: 'rankmill_webhook_deliveries_total',
    help: 'Tries to deliver a webhook, by outcome (delivered, failed)',
    labelNames: ['outcome'],
    registers: [this.registry],
  })

  /** @param isAlone nothing else reports of this process */
  constructor(isAlone = true) {
    if (isAlone) collectDefaultMetrics({ register: this.registry })
  }

  /** @param ms time that the answer took */
  observe(method: string, route: string, status: number, ms: number): void {
    this.#requests.inc({ method, route, status: String(status) })
    this.#duration.observe({ route }, ms / 1000)
  }
}
