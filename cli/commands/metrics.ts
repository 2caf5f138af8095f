/** `rankmill metrics`: the queues' metrics without a worker, so that depth and age are seen when none is alive. */
import { once } from 'node:events'
import { Command } from 'commander'
import { Registry } from 'prom-client'
import { collectQueues } from '../../monitoring/queue-collector.js'
import { serveMonitoring } from '../../monitoring/server.js'
import { makeLogger } from '../../shared/logger.js'
import type { OptionName } from '../../shared/options.js'
import { Caretaker } from '../../shared/redis/caretaker.js'
import { connectWorker } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { HEARTBEAT_MS } from '../../shared/redis/worker-registry.js'
import { EXIT, note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, isNamed, optionsOf } from '../options.js'

const FLAGS: readonly OptionName[] = [
  'redis',
  'prefix',
  'queue',
  'shards',
  'logLevel',
  'metricsPort',
  'metricsHost',
  'unservedMs',
  'maxStalled',
]

export function metricsCommand(): Command {
  const command = new Command('metrics')
    .description(
      'Serve the queues’ metrics without a worker, and look after requests past their time while none is alive.',
    )
    .option('--once', 'print them and end')
    .action(async () => run(command))
  return addOptions(command, FLAGS)
}

async function run(command: Command): Promise<void> {
  const options = optionsOf(command)
  const shards = await Shards.open(options, (target) => connectWorker(target, 'rankmill-metrics'), 'observer')
  const registry = new Registry()
  collectQueues(registry, shards, () => true)
  if (command.opts<{ once?: true }>().once) {
    process.stdout.write(`${await registry.metrics()}\n`)
    shards.close()
    return
  }
  const log = makeLogger(options.logLevel, 'rankmill-metrics')
  const events = { recovered: () => undefined, reconciled: () => undefined }
  const id = `metrics-${process.pid}`
  const caretakersOf = ({ all, corpora }: Shards) =>
    all.map(({ redis, keys }) => new Caretaker(id, redis, keys, options, events, log, undefined, corpora))
  const caretakers = caretakersOf(shards)
  const beat = setInterval(async () => {
    if (await shards.follow().catch(() => false)) {
      await Promise.all(caretakers.splice(0, Infinity, ...caretakersOf(shards)).map((caretaker) => caretaker.close()))
    }
    for (const caretaker of caretakers) void caretaker.look().catch(() => undefined)
  }, HEARTBEAT_MS)
  const health = () => {
    const redis = shards.all.find((shard) => shard.redis.status !== 'ready')?.redis.status ?? 'ready'
    return { ok: redis === 'ready', checks: { redis } }
  }
  const sources = { contentType: registry.contentType, metrics: () => registry.metrics(), alive: health, ready: health }
  try {
    const port = { port: options.metricsPort, orNext: !isNamed(command, 'metricsPort') }
    const server = await serveMonitoring(sources, options.metricsHost, port)
    try {
      note(`rankmill: the queues' metrics are at ${server.url}/metrics; Ctrl-C stops`)
      await interruptible(
        'stopping',
        async ({ signal }) => void (signal.aborted || (await once(signal, 'abort'))),
        EXIT.done,
      )
    } finally {
      await server.close()
    }
  } finally {
    clearInterval(beat)
    await Promise.all(caretakers.map((caretaker) => caretaker.close()))
    shards.close()
  }
}
