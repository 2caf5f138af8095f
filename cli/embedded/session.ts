/**
 * What the commands that need nothing running stand on: a Redis and workers, found or started, stopped at the end where
 * they were started here. One line on standard error says what was done.
 */
import { hostname } from 'node:os'
import type { Redis } from 'ioredis'
import type { FleetMetrics } from '../../monitoring/fleet.js'
import { type MonitoringServer, serveMonitoring, type WantedPort } from '../../monitoring/server.js'
import { RankmillError } from '../../shared/errors.js'
import { closeAll } from '../../shared/lifecycle.js'
import type { Options, OptionsInput } from '../../shared/options.js'
import { isAlive } from '../../shared/process-identity.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { connectProducer, reaching } from '../../shared/redis/connection.js'
import { OutageWatch } from '../../shared/redis/outage-watch.js'
import { Shards } from '../../shared/redis/shards.js'
import { WorkerRegistry } from '../../shared/redis/worker-registry.js'
import { note } from '../exit.js'
import { unlessAborted } from '../interruption.js'
import { checkModels } from '../served-models.js'
import { defaultWorkers, Fleet, type WorkerPool } from './fleet.js'
import { findOrStartRedis } from './redis.js'
import { Standby } from './standby.js'

export interface SessionOptions {
  /** false: use what runs, start nothing. */
  readonly embedded: boolean
  /** Redis was named by flag or environment: it is used, never started. */
  readonly redisGiven: boolean
  /**
   * Workers to start where none is alive; undefined: one for two cores, and none where Redis was named, whose queue may
   * hold other people's requests.
   */
  readonly workers: number | undefined
  /** Workers of several models, instead of so many with the option's. */
  readonly pools?: readonly WorkerPool[] | undefined
  /** Start workers even where some are alive. */
  readonly always?: boolean
  /** Where the fleet's metrics are served; default: any free port. */
  readonly metricsPort?: WantedPort
  /** Ends the opening. */
  readonly signal?: AbortSignal | undefined
}

export interface Session {
  /** With the Redis that was found or started. */
  readonly options: Options
  /** Where the metrics of the workers started here are; undefined where none was. */
  readonly metricsUrl: string | undefined
  readonly metrics: FleetMetrics | undefined
  readonly fleet: Fleet | undefined
  stop(force?: boolean): Promise<void>
}

/**
 * @throws RankmillError `unknown_model` before anything starts, `redis_unavailable`, `redis_misconfigured`, or what keeps a
 *   worker from starting; the signal's reason
 */
export async function openSession(options: Options, session: SessionOptions): Promise<Session> {
  const steps: { name: string; close: () => unknown }[] = []
  const { signal } = session
  let force = false
  let fleet: Fleet | undefined
  const stop = async (now = false) => {
    force ||= now
    // The workers may be draining already.
    if (force) void fleet?.stop(true)
    // Closing may wait for a step that is just being added.
    while (steps.length > 0) {
      const failed = await closeAll(steps.splice(0).reverse())
      for (const { name, error } of failed) note(`rankmill: closing ${name}: ${String(error)}`)
    }
  }
  const mayStart = session.embedded && (session.always || !session.redisGiven || session.workers !== undefined)
  try {
    if (mayStart && !session.redisGiven) await checkModels(options)
    const found = await unlessAborted(redisFor(options, session), signal, (redis) => redis.stop())
    steps.push({ name: 'redis', close: () => found.stop() })
    const filled: Options = { ...options, redis: found.url }
    const connecting = Shards.open(filled, connectProducer, mayStart ? 'worker' : 'observer')
    const shards = await unlessAborted(connecting, signal, (opened) => opened.close())
    steps.push({ name: 'connection', close: () => shards.close() })
    const { redis } = shards.first
    if (shards.before !== undefined)
      note(`rankmill: the fleet had ${shards.before} shard(s) and has ${shards.all.length} now`)
    new OutageWatch(redis, (line) => note(`rankmill: ${line}`))
    const alive = () => reaching(() => aliveWorkers(redis, filled))
    const workers = session.workers ?? defaultWorkers()
    const pools = session.pools ?? [{ model: options.model, workers }]
    const described = pools.map((pool) => `${pool.workers} worker(s) with ${pool.model}`).join(' and ')
    const startFleet = async () => {
      for (const { model } of pools) await checkModels({ ...filled, model })
      const started = await Fleet.start(filled, pools, note, signal)
      fleet = started
      steps.push({ name: 'workers', close: () => started.stop(force) })
      return started
    }
    const before = session.always ? 0 : await alive()
    if (before > 0 || !mayStart) {
      const none = `no worker is alive on queue "${filled.queue}": requests wait until one comes${session.embedded ? ' (--workers N starts some here)' : ''}`
      note(`rankmill: ${found.description}; ${before > 0 ? `${before} worker(s) alive` : none}`)
      if (mayStart) {
        const standby = new Standby(alive, async () => {
          note(`rankmill: the last worker is gone: starting ${described}`)
          await startFleet()
        })
        steps.push({ name: 'standby', close: () => standby.close() })
      }
      return { options: filled, metricsUrl: undefined, metrics: undefined, fleet: undefined, stop }
    }
    const starting = startFleet()
    // Beside a fleet that runs it is not needed, and takes its time to load: that of the workers, which load their model.
    const serving = serveMetrics(filled, shards, () => fleet, session.metricsPort ?? { port: 0 })
    const [, servingEnd] = await Promise.allSettled([starting, serving])
    if (servingEnd.status === 'fulfilled')
      steps.push({ name: 'metrics server', close: () => servingEnd.value.server.close() })
    const [started, { metrics, server }] = await Promise.all([starting, serving])
    note(`rankmill: ${found.description}; started ${described}; metrics at ${server.url}/metrics`)
    return { options: filled, metricsUrl: `${server.url}/metrics`, metrics, fleet: started, stop }
  } catch (error) {
    await stop(true)
    throw error
  }
}

/** What a client of a session is made from: requests that name no model mean the fleet's default, whoever started it. */
export function clientOptions({ options }: Session): OptionsInput {
  return { ...options, model: undefined }
}

/** Workers that say in the first shard that they live, as they do in each, but for those of this machine whose process is gone. */
async function aliveWorkers(redis: Redis, { prefix, queue }: Options): Promise<number> {
  const said = await new WorkerRegistry(redis, keysOf(prefix, queue)).workers()
  return said.filter(({ host, pid }) => host !== hostname() || isAlive(pid)).length
}

async function redisFor(options: Options, { embedded, redisGiven }: SessionOptions) {
  if (!embedded && !redisGiven) {
    throw new RankmillError(
      'redis_unavailable',
      '--no-embedded forbids to start a Redis, and neither --redis nor REDIS_URL names one',
    )
  }
  const given = redisGiven ? { url: options.redis } : {}
  return findOrStartRedis({ ...given, dataDir: '.rankmill/redis', log: (line) => note(`rankmill: ${line}`) })
}

async function serveMetrics(
  options: Options,
  shards: Shards,
  fleet: () => Fleet | undefined,
  port: WantedPort,
): Promise<{ metrics: FleetMetrics; server: MonitoringServer }> {
  const { FleetMetrics } = await import('../../monitoring/fleet.js')
  const metrics = new FleetMetrics(shards, async () => (await fleet()?.snapshots()) ?? [])
  const health = () => {
    const [alive, size] = [fleet()?.alive ?? 0, fleet()?.size ?? 0]
    const checks = { redis: shards.first.redis.status, workers: `${alive} of ${size}` }
    return { ok: alive > 0 && checks.redis === 'ready', checks }
  }
  const sources = { contentType: metrics.contentType, metrics: () => metrics.text(), alive: health, ready: health }
  return { metrics, server: await serveMonitoring(sources, options.metricsHost, port) }
}
