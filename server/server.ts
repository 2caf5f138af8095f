/** The API server: everything that it is made of, started and closed in order. */
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { collectQueues, fleetState } from '../monitoring/queue-collector.js'
import { RerankClient } from '../producer/client.js'
import { RankmillError } from '../shared/errors.js'
import { closeAll, within } from '../shared/lifecycle.js'
import { type Logger, makeLogger } from '../shared/logger.js'
import { OPTIONS, type Options } from '../shared/options.js'
import { serverKeysOf } from '../shared/protocol/server-keys.js'
import { connectProducer, connectWorker, reaching } from '../shared/redis/connection.js'
import { FailedJobs } from '../shared/redis/failed-jobs.js'
import { PoolQueues } from '../shared/redis/pool-queues.js'
import { ServerScripts } from '../shared/redis/server-scripts.js'
import { type Shard, Shards } from '../shared/redis/shards.js'
import { makeApp } from './app.js'
import { BatchRecords } from './batches/batch-records.js'
import { BatchRunner } from './batches/batch-runner.js'
import { Files } from './files/files.js'
import { FolderStorage } from './files/folder-storage.js'
import type { Storage } from './files/storage.js'
import { HttpMetrics } from './http-metrics.js'
import { JobCalls } from './jobs/job-calls.js'
import { JobRecords } from './jobs/job-records.js'
import { ApiKeys } from './keys/api-keys.js'
import { Authentication } from './keys/authentication.js'
import { CallerLimits } from './keys/limits.js'
import { ModelNames } from './model-names.js'
import { describeApi } from './openapi.js'
import { RerankCalls } from './rerank-calls.js'
import { batchRoutes } from './routes/batches.js'
import { corpusRoutes } from './routes/corpora.js'
import { failedRoutes } from './routes/failed.js'
import { fileRoutes } from './routes/files.js'
import { jobRoutes } from './routes/jobs.js'
import { pageRoutes } from './routes/page.js'
import { queueBoard } from './routes/queue-board.js'
import { rerankRoutes } from './routes/rerank.js'
import { scoreRoutes } from './routes/score.js'
import { systemRoutes } from './routes/system.js'
import { webhookRoutes } from './routes/webhooks.js'
import { Webhooks } from './webhooks/webhooks.js'

const IDLE_CLOSED_MS = 100
/** What waits for a Redis that is away is left behind after so long. */
const CLOSE_MS = 3000
/** How often a server looks whether its fleet has other shards. */
const FOLLOW_MS = 2000

export interface ServerParts {
  readonly log?: Logger
  readonly now?: () => number
  /** Metrics of the whole, queues included, where something else collects them: Prometheus's text format. */
  readonly moreMetrics?: () => Promise<string>
  /** Takes a free port where the one that nobody asked for is taken. */
  readonly portOrNext?: boolean
}

export class ApiServer {
  /** http://host:port */
  readonly url: string
  readonly #steps: readonly { name: string; close: () => unknown }[]
  readonly #log: Logger

  /** @throws RankmillError `redis_unavailable`, `redis_misconfigured`, `invalid_configuration` */
  static async start(options: Options, parts: ServerParts = {}): Promise<ApiServer> {
    const log = parts.log ?? makeLogger(options.logLevel, 'rankmill-server')
    const now = parts.now ?? Date.now
    const steps: { name: string; close: () => unknown }[] = []
    const closing = <T>(name: string, thing: T, close: (thing: T) => unknown): T => {
      steps.unshift({ name, close: () => close(thing) })
      return thing
    }
    try {
      const models = new ModelNames(options.modelAliases)
      const keys = serverKeysOf(options.prefix, options.queue)
      const shards = closing('redis', await Shards.open(options, connectProducer, 'producer'), (it) => it.close())
      // Keys, jobs, files and batches of callers are in the first one.
      const { redis } = shards.first
      const workerRedis = closing('redis of webhooks', await connectWorker(options, 'rankmill-server'), (it) =>
        it.disconnect(),
      )
      const scripts = new ServerScripts(redis, keys)
      const metrics = new HttpMetrics(parts.moreMetrics === undefined)
      const apiKeys = new ApiKeys(redis, keys, now)
      const authentication = await Authentication.open(apiKeys, options)
      const queues = closing('queues', new Map<Shard, PoolQueues>(), (it) =>
        within(Promise.all([...it.values()].map((one) => one.close())), CLOSE_MS),
      )
      // A worker may come after this server, and make a fleet of several of one that was new.
      const following = setInterval(() => {
        void shards.follow().catch((error) => log.debug({ err: error }, 'cannot look for other shards: trying again'))
      }, FOLLOW_MS).unref()
      closing('following', following, clearInterval)
      if (!parts.moreMetrics) collectQueues(metrics.registry, shards, () => true)
      const client = closing('client', new RerankClient({ ...options, model: modelOf(options) }, { log }), (it) =>
        within(it.close(), CLOSE_MS),
      )
      const limits = new CallerLimits(scripts)
      const calls = new RerankCalls({ client, limits, models, metrics, options, now })
      const webhooks = closing(
        'webhooks',
        new Webhooks({ redis, workerRedis, keys, apiKeys, options, metrics, log }),
        (it) => it.close(),
      )
      const records = new JobRecords(redis, keys, options.requestTtlMs + options.resultTtlMs)
      const jobs = closing(
        'jobs',
        new JobCalls({ client, calls, limits, records, webhooks, options, log, now }),
        (it) => it.close(),
      )
      const files = closing('files', new Files(redis, keys, await openStorage(options), options, log, now), (it) =>
        it.close(),
      )
      const batches = new BatchRecords(redis, keys, options.fileTtlMs)
      const runner = closing(
        'batches',
        new BatchRunner({ client, calls, records: batches, files, scripts, apiKeys, webhooks, options, log, now }),
        (it) => it.close(),
      )
      const app = closing('http', await makeApp({ options, authentication, metrics, log }), (it) =>
        drained(it, options.drainTimeoutMs),
      )
      await describeApi(app)
      const isUp = () => redis.status === 'ready'
      const sources = {
        contentType: metrics.registry.contentType,
        metrics: async () => `${await metrics.registry.metrics()}\n${(await parts.moreMetrics?.()) ?? ''}`,
        alive: () => ({ ok: true, checks: { redis: redis.status } }),
        ready: async () => {
          const workers = isUp() ? await client.workers().catch(() => []) : []
          const checks = { redis: redis.status, workers: String(workers.length) }
          return { ok: isUp() && workers.length > 0, checks }
        },
      }
      rerankRoutes(app, calls, jobs)
      scoreRoutes(app, calls)
      jobRoutes(app, jobs, webhooks)
      await fileRoutes(app, files, batches, options)
      batchRoutes(app, { records: batches, runner, files, webhooks, now })
      const corpora = async () => {
        await shards.follow()
        return shards.corpora
      }
      corpusRoutes(app, { corpora, client, options })
      webhookRoutes(app, webhooks)
      systemRoutes(app, sources, calls, models)
      pageRoutes(app, () => fleetState(shards.all), calls.times)
      const failed = closing('failed jobs', new FailedJobs(shards), (it) => within(it.close(), CLOSE_MS))
      failedRoutes(app, failed, options)
      const lanes = async (shard: Shard) => {
        const own = queues.get(shard) ?? new PoolQueues(shard.redis, shard.keys)
        queues.set(shard, own)
        return (await own.all()).map(({ queue }) => ({
          queue,
          prefix: shard.index === 0 ? '' : `shard-${shard.index}.`,
        }))
      }
      // Those of a shard that does not answer are not there; the webhooks' lies beside the first one's.
      const all = async () => {
        const told = await Promise.allSettled(shards.all.map((shard) => reaching(() => lanes(shard))))
        const found = told.map((one) => (one.status === 'fulfilled' ? one.value : undefined))
        const [failed] = told.flatMap((one) => (one.status === 'rejected' ? [one] : []))
        if (failed && found.every((one) => one === undefined)) throw failed.reason
        return [...found.flatMap((one) => one ?? []), ...(found[0] ? [{ queue: webhooks.queue, prefix: '' }] : [])]
      }
      await queueBoard(app, all)
      const url = await listen(app, options, parts.portOrNext ?? false)
      log.info({ url, auth: authentication.isOpen ? 'open' : 'keys' }, 'listening')
      return new ApiServer(url, steps, log)
    } catch (error) {
      await closeAll(steps)
      throw error
    }
  }

  private constructor(url: string, steps: readonly { name: string; close: () => unknown }[], log: Logger) {
    this.url = url
    this.#steps = steps
    this.#log = log
  }

  /** Takes no more requests, lets those that wait go, and frees everything. What they asked for stays in the queue. */
  async close(): Promise<void> {
    for (const { name, error } of await closeAll(this.#steps)) this.#log.warn({ err: error, step: name }, 'closing')
  }
}

/** Answers who waits, as long as they may; then their connections end. */
async function drained(app: FastifyInstance, ms: number): Promise<void> {
  const closed = app.close()
  // A connection whose answer was just sent would be kept for the next request.
  const idle = setInterval(() => app.closeIdle(), IDLE_CLOSED_MS)
  try {
    if (await within(closed, ms)) return
    app.server.closeAllConnections()
    await closed
  } finally {
    clearInterval(idle)
  }
}

async function openStorage({ files, filesEndpoint, dataDir }: Options): Promise<Storage> {
  if (files === '') return FolderStorage.open(join(dataDir, 'files'))
  // The SDK is large: only who uses it loads it.
  const { S3Storage } = await import('./files/s3-storage.js')
  return S3Storage.open(files, filesEndpoint)
}

/** @throws RankmillError `invalid_configuration` */
async function listen(app: FastifyInstance, { host, port }: Options, orNext: boolean): Promise<string> {
  const isTaken = (error: unknown) => (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
  try {
    await app.listen({ host, port }).catch(async (error) => {
      if (!orNext || !isTaken(error)) throw error
      await app.listen({ host, port: 0 })
    })
  } catch (error) {
    const message = `--port: cannot listen on ${host}:${port}: ${(error as Error).message}`
    throw new RankmillError('invalid_configuration', message, { param: 'port' }, { cause: error })
  }
  const [address] = app.addresses()
  const shown = host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host
  return `http://${shown}:${typeof address === 'object' ? address.port : port}`
}

/** What requests mean that name no model, where somebody says so; else the fleet's default. */
function modelOf({ model }: Options): string | undefined {
  return model === OPTIONS.model.default ? undefined : model
}
