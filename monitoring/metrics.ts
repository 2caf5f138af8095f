/** What a worker process measures, under the names of docs/metrics.md; one registry an instance, never the global one. */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]

/** How often it is looked whether the event loop comes to its timers in time, and what is told of it. */
const LAG_EVERY_MS = 5
const LAG_QUANTILES = [50, 99, 100]

export type Stage =
  | 'queued'
  | 'load'
  | 'prefilter'
  | 'cache'
  | 'tokenize'
  | 'budget_wait'
  | 'batch_wait'
  | 'inference'
  | 'aggregate'
  | 'write'

export class WorkerMetrics {
  readonly registry = new Registry()
  readonly requestDuration = new Histogram({
    name: 'rankmill_request_duration_seconds',
    help: 'From submission to answer, by outcome (completed, or the code of the error), of the requests that this worker ended',
    labelNames: ['outcome'],
    buckets: SECONDS,
    registers: [this.registry],
  })
  readonly stageDuration = new Histogram({
    name: 'rankmill_stage_duration_seconds',
    help: 'Time of a job in a stage; batch_wait is the mean of its pairs, inference its share of the model calls',
    labelNames: ['stage'],
    buckets: SECONDS,
    registers: [this.registry],
  })
  readonly batchPairs = new Histogram({
    name: 'rankmill_batch_pairs',
    help: 'Pairs in a model call',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
    registers: [this.registry],
  })
  readonly batchTokens = new Histogram({
    name: 'rankmill_batch_tokens',
    help: 'Tokens in a model call, padding not counted',
    buckets: [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536],
    registers: [this.registry],
  })
  readonly batchPaddingRatio = new Histogram({
    name: 'rankmill_batch_padding_ratio',
    help: 'Share of padding among the tokens of a model call',
    buckets: [0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1],
    registers: [this.registry],
  })
  readonly pairs = new Counter({
    name: 'rankmill_pairs_total',
    help: 'Pairs of finished jobs, by where the score came from (exit: left the model early; prefilter: not scored by the model)',
    labelNames: ['source'],
    registers: [this.registry],
  })
  readonly tokens = new Counter({
    name: 'rankmill_tokens_total',
    help: 'Tokens that went through the model, padding not counted',
    registers: [this.registry],
  })
  readonly retries = new Counter({
    name: 'rankmill_retries_total',
    help: 'Jobs that will be tried again, by the reason',
    labelNames: ['reason'],
    registers: [this.registry],
  })
  readonly jobsRecovered = new Counter({
    name: 'rankmill_jobs_recovered_total',
    help: 'Jobs that were put back into the queue because their worker died',
    labelNames: ['reason'],
    registers: [this.registry],
  })
  readonly requestsReconciled = new Counter({
    name: 'rankmill_requests_reconciled_total',
    help: 'Requests that nobody would have answered, found and ended or queued again; there should be none',
    registers: [this.registry],
  })
  readonly modelInfo = new Gauge({
    name: 'rankmill_model_info',
    help: 'Always 1: the models that are loaded',
    labelNames: ['model', 'dtype', 'device'],
    aggregator: 'max',
    registers: [this.registry],
  })

  /**
   * @param busyRatio share of session time spent in the model since the last call
   * @param redisUp whether the connection to Redis stands
   */
  constructor(busyRatio: () => number, redisUp: () => boolean) {
    new Gauge({
      name: 'rankmill_inference_busy_ratio',
      help: 'Share of time that the inference sessions were busy since the last scrape',
      aggregator: 'average',
      registers: [this.registry],
      collect() {
        this.set(busyRatio())
      },
    })
    new Gauge({
      name: 'rankmill_redis_up',
      help: '1 while the connection to Redis stands',
      aggregator: 'min',
      registers: [this.registry],
      collect() {
        this.set(redisUp() ? 1 : 0)
      },
    })
    const delay = monitorEventLoopDelay({ resolution: LAG_EVERY_MS })
    delay.enable()
    new Gauge({
      name: 'rankmill_event_loop_lag_seconds',
      help: 'How late the event loop, which renews the locks of jobs, came to its timers since the last scrape',
      labelNames: ['quantile'],
      aggregator: 'max',
      registers: [this.registry],
      collect() {
        for (const percent of LAG_QUANTILES) {
          const ms = delay.percentile(percent) / 1e6 - LAG_EVERY_MS
          this.set({ quantile: percent / 100 }, Math.max(0, ms) / 1000)
        }
        delay.reset()
      },
    })
    collectDefaultMetrics({ register: this.registry })
    for (const source of ['model', 'exit', 'cache', 'prefilter'] as const) this.pairs.inc({ source }, 0)
  }

  recovered(reason: 'worker_lost', jobs: number): void {
    this.jobsRecovered.inc({ reason }, jobs)
  }

  reconciled(): void {
    this.requestsReconciled.inc()
  }

  observeStage(stage: Stage, ms: number): void {
    this.stageDuration.observe({ stage }, ms / 1000)
  }

  /** Runs a stage and measures it. */
  async time<T>(stage: Stage, run: () => T | Promise<T>): Promise<T> {
    const startedAt = performance.now()
    try {
      return await run()
    } finally {
      this.observeStage(stage, performance.now() - startedAt)
    }
  }
}
